"""Runs an opened bundle: takes requests (prompts already resolved) and gives windows of vectors."""

from collections.abc import Iterable, Iterator

from embedding_runtime.encoding.options import Options, check_whole
from embedding_runtime.encoding.overflow import Cutter, Overflow, Request
from embedding_runtime.encoding.requests import watch_prefixes
from embedding_runtime.encoding.stream import Settings, Stream, Window
from embedding_runtime.errors import EmbeddingWarning, EngineError, InputError, OverflowWarning
from embedding_runtime.notices import Notices
from embedding_runtime.opening.open_bundle import Opened

HIDDEN_OUTPUT = "last_hidden_state"
# <bos>, one token of text and <eos>.
LEAST_LENGTH = 3


class Encoder:
    """Runs requests through an opened bundle until it is closed; may be used from several threads at once."""

    def __init__(self, opened: Opened) -> None:
        self._opened: Opened | None = opened
        self.max_length = self._longest = opened.max_length
        self._manifest = opened.manifest
        self._notices = Notices()

    @property
    def opened(self) -> Opened:
        """The bundle.

        Raises:
            EngineError: it has been closed.
        """
        opened = self._opened
        if opened is None:
            raise EngineError("This Embedder is closed. Load the bundle again.")
        return opened

    def close(self) -> None:
        """Release the graph; running calls hold it until they end."""
        self._opened = None

    def set_max_length(self, value: int) -> None:
        """Limit the number of tokens of each text that are read.

        Raises:
            InputError, InputTypeError: not a whole number that the graph allows.
        """
        check_whole("max_seq_length", value, LEAST_LENGTH, self._longest)
        self.max_length = value

    def check_dim(self, dim: int | None) -> None:
        """Refuse a dimension that the bundle cannot give; warn once if the model was not trained for it.

        Raises:
            InputError, InputTypeError: not a whole number from 1 to the bundle's dimension.
        """
        if dim is None:
            return
        check_whole("dim", dim, 1, self._manifest.embedding_dim)
        if dim not in (self._manifest.embedding_dim, self._manifest.truncate_dim, *self._manifest.dims):
            self._notices.once(
                f"dim {dim}",
                f"dim is {dim}; the model was trained for {list(self._manifest.dims)}. "
                "Other dimensions work less well.",
                EmbeddingWarning,
            )

    def cutter(self, overflow: Overflow, allow_special: bool) -> Cutter:
        """The cutter that turns texts into token ids with the present settings."""
        return Cutter(
            self.opened.tokenizer,
            self.max_length,
            overflow,
            allow_special,
            include_prompt=self._manifest.include_prompt,
        )

    def stream(self, overflow: Overflow, allow_special: bool) -> Stream:
        """The engine, with a cutter for the present settings."""
        return Stream(
            self.opened.session,
            self.cutter(overflow, allow_special),
            self._manifest.tokenizer.pad_id,
            self._manifest.embedding_dim,
        )

    def windows(
        self, requests: Iterable[Request], options: Options, *, prefixes: tuple[str, ...], strict: bool
    ) -> Iterator[Window]:
        """Results window by window; a text that already begins with one of `prefixes` causes a warning."""
        self.check_dim(options.dim)
        overflow = options.overflow or "truncate"
        stream = self.stream(overflow, options.allow_special)
        settings = self.settings(options, strict)
        for window in stream.windows(watch_prefixes(requests, prefixes, self._tell_prefix), settings):
            if overflow == "truncate" and window.long.any():
                self._tell_long(window.start + int(window.long.argmax()), stream.cutter.max_length)
            yield window

    def settings(self, options: Options, strict: bool = True) -> Settings:
        """The settings for a caller's options.

        Raises:
            InputError: they ask for token vectors, which the graph lacks.
        """
        unit = any(stage.type == "normalize" for stage in self._manifest.stages)
        shortened = options.dim is not None and options.dim < self._manifest.embedding_dim
        normalize = options.normalize_embeddings
        hidden = options.output_value != "sentence_embedding"
        if hidden and HIDDEN_OUTPUT not in self.opened.graph.outputs:
            raise InputError(
                f"output_value {options.output_value!r} needs the output {HIDDEN_OUTPUT!r}, which the graph "
                f"{self.opened.graph.key} lacks. Load an ONNX graph: format='onnx'."
            )
        return Settings(
            batch_size=options.batch_size,
            dim=options.dim,
            normalize=unit and shortened if normalize is None else normalize,
            renormalize_chunks=unit,
            hidden=hidden,
            strict=strict,
        )

    def _tell_long(self, index: int, length: int) -> None:
        graph, why = self.opened.graph, ""
        if length == self._longest < self._manifest.max_seq_length:
            why = f" {graph.key} was exported for {length}, the model reads {self._manifest.max_seq_length}."
        self._notices.once(
            "long",
            f"inputs[{index}] has more than {length} tokens, its prompt included; the rest is not read. "
            f'overflow="chunk" reads all of it, overflow="error" refuses it.{why} '
            "(Shown once.)",
            OverflowWarning,
        )

    def _tell_prefix(self, index: int) -> None:
        self._notices.once(
            "prefix",
            f"inputs[{index}] already begins with a prompt of this bundle, but gets its prompt all the "
            'same. Pass texts without prompts, or prompt="". (Shown once.)',
            EmbeddingWarning,
        )
