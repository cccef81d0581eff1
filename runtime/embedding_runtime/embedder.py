"""Texts to vectors: the runtime's main class, with sentence-transformers' names."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Unpack, cast, overload

import numpy as np
from numpy.typing import NDArray

from embedding_runtime import similarity
from embedding_runtime.bundle import Format, Precision
from embedding_runtime.encoding import prompts as prompting
from embedding_runtime.encoding.inputs import Texts, as_inputs, as_texts, is_single
from embedding_runtime.encoding.options import (
    Device,
    EncodeOptions,
    LoadOptions,
    Options,
    VectorOptions,
    check_device,
    check_overflow,
)
from embedding_runtime.encoding.overflow import Overflow, Request
from embedding_runtime.encoding.pipeline import Encoder
from embedding_runtime.encoding.progress import Progress, is_shown
from embedding_runtime.encoding.prompts import PromptChoice
from embedding_runtime.encoding.reference_names import ReferenceNames
from embedding_runtime.encoding.requests import Titles, join_requests, one_title
from embedding_runtime.encoding.results import Result, collect, stored
from embedding_runtime.encoding.stream import Window
from embedding_runtime.encoding.tensors import like_inputs
from embedding_runtime.engines.padding import pad
from embedding_runtime.errors import InputError
from embedding_runtime.opening.integrity import Verify
from embedding_runtime.opening.open_bundle import Choice, open_bundle
from embedding_runtime.opening.pickled import Pickled, reopen
from embedding_runtime.similarity import Scores, SimilarityName, Vectors


class Embedder(ReferenceNames):
    """A bundle, opened and checked, that turns texts into vectors.

    One Embedder may be used from several threads at once, and by a child that is forked while none of them
    encodes. It is pickled and copied as the bundle's path and its options, and opens the bundle again.
    `close()`, or leaving a `with` block, frees it.

    Attributes:
        manifest: the bundle's manifest.
        graph: the graph in use.
        prompts: name to text; may be changed between calls.
        default_prompt_name, truncate_dim, overflow: used unless a call says otherwise.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        format: Format | None = None,
        precision: Precision | None = None,
        threads: int | None = None,
        device: Device | None = None,
        prompts: dict[str, str] | None = None,
        default_prompt_name: str | None = None,
        similarity_fn_name: SimilarityName | None = None,
        truncate_dim: int | None = None,
        overflow: Overflow = "truncate",
        verify: Verify = "cached",
        allow_failed: bool = False,
        device_cache: bool | None = None,
    ) -> None:
        """Open a bundle folder.

        Args:
            format: of the graph; None takes one whose engine is installed, ONNX if both are.
            precision: of the graph; None takes int8, else int8_q4, else mixed, else fp32, else fp16.
            threads: for the engine; None takes every CPU this process may use.
            device: "cpu" or None: the only one there is.
            prompts: added to the checkpoint's own; they replace those of the same name.
            default_prompt_name, similarity_fn_name: None takes the checkpoint's own.
            truncate_dim: number of components of each vector that are kept unless a call says otherwise; None
                takes the checkpoint's own setting, usually all.
            overflow: what happens to longer texts, unless a call says otherwise; see `encode`.
            verify: "cached" hashes the files that changed since they were last verified, "always" all of
                them.
            allow_failed: load a graph whose comparison failed, and leave golden vectors uncompared.
            device_cache: keep packed weights in a file in the user's cache; None: for ONNX in int8, int8_q4
                and int4, for LiteRT always.

        Raises:
            BundleError: missing, damaged, changed since export, or found wrong.
            EngineError: the engine is missing, too old, or does not load the graph.
            InputError, InputTypeError: a bad argument.
        """
        check_device(device)
        check_overflow(overflow)
        choice = Choice(format, precision, threads, verify, allow_failed, device_cache)
        opened = open_bundle(Path(path), choice)
        self._choice, self._path = choice, str(Path(path).absolute())
        self._encoder = Encoder(opened)
        self.manifest, self.graph = opened.manifest, opened.graph
        self.prompts = {"query": "", "document": "", **self.manifest.prompts, **(prompts or {})}
        self.default_prompt_name = default_prompt_name or self.manifest.default_prompt_name
        if self.default_prompt_name is not None:
            prompting.named(self.default_prompt_name, self.prompts)
        self.similarity_fn_name = similarity_fn_name or self.manifest.similarity_fn_name
        self.overflow: Overflow = overflow
        self.truncate_dim = self.manifest.truncate_dim if truncate_dim is None else truncate_dim
        self._encoder.check_dim(truncate_dim)

    @classmethod
    def load(cls, path: str | Path, **options: Unpack[LoadOptions]) -> "Embedder":
        """Open a bundle folder; the same as `Embedder(path, ...)`."""
        return cls(path, **options)

    @overload
    def encode(
        self,
        inputs: Texts,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int = ...,
        show_progress_bar: bool | None = ...,
        **options: Unpack[VectorOptions],
    ) -> NDArray[Any]: ...
    @overload
    def encode(
        self,
        inputs: Texts,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int = ...,
        show_progress_bar: bool | None = ...,
        **options: Unpack[EncodeOptions],
    ) -> Result: ...
    def encode(
        self,
        inputs: Texts | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        **options: Unpack[EncodeOptions],
    ) -> Result:
        """Vectors of one text (D,) or of many (N, D), float32; no texts give an empty array of shape (0,).

        Args:
            inputs: a str, or any iterable of str; a generator is read window by window.
            prompt_name: of one of `prompts`; None takes the default prompt.
            prompt: goes before each text; takes precedence over `prompt_name`.
            batch_size: texts per run of the engine, fewer if they are long; LiteRT runs one at a time.
            show_progress_bar: on stderr; None shows it if the log level is INFO or DEBUG.
            output_value: "sentence_embedding"; "token_embeddings" for one array (S, H) per text; None for a
                dict per text with both and the ids; LiteRT graphs have only the first.
            precision: of the vectors: float32, int8, uint8, binary or ubinary; see `quantize_embeddings`.
            convert_to_numpy: False gives a list of arrays instead of one array.
            normalize_embeddings: True divides by the length, False does not, None does if `dim` has shortened
                vectors of length 1.
            dim, truncate_dim: the same thing: the first components that are kept.
            task: a prompt's name or alias, in any case of letters.
            overflow: for texts of more than `max_seq_length` tokens: "truncate" cuts them (and warns once),
                "error" refuses them, "chunk" averages the vectors of their pieces, weighted by tokens.
            allow_special: `<bos>`, `<eos>`, `<pad>` ... in a text are control tokens rather than text; LiteRT
                graphs refuse `<pad>`.
            convert_to_tensor: True gives tensors, in a process that has imported PyTorch.
            device, pool, chunk_size: accepted only with values that change nothing.
            sentences: the older name of `inputs`.

        Raises:
            InputError: a value out of range, an unknown name, a text that is not Unicode or too long.
            InputTypeError: something that is not text, naming its index and type.
            EngineError: the engine failed, or the Embedder is closed.
        """
        choice = PromptChoice(prompt, prompt_name, options.get("task"))
        return self._encode(inputs, choice, Options.of(batch_size, show_progress_bar, options))

    @overload
    def encode_query(
        self,
        inputs: Texts,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int = ...,
        show_progress_bar: bool | None = ...,
        **options: Unpack[VectorOptions],
    ) -> NDArray[Any]: ...
    @overload
    def encode_query(
        self,
        inputs: Texts,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int = ...,
        show_progress_bar: bool | None = ...,
        **options: Unpack[EncodeOptions],
    ) -> Result: ...
    def encode_query(
        self,
        inputs: Texts | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        **options: Unpack[EncodeOptions],
    ) -> Result:
        """As `encode`, with the prompt "query" unless the call names another."""
        choice = PromptChoice(prompt, prompt_name, options.get("task"), prompting.QUERY_NAMES)
        return self._encode(inputs, choice, Options.of(batch_size, show_progress_bar, options))

    @overload
    def encode_document(
        self,
        inputs: Texts,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int = ...,
        show_progress_bar: bool | None = ...,
        *,
        titles: Titles = ...,
        **options: Unpack[VectorOptions],
    ) -> NDArray[Any]: ...
    @overload
    def encode_document(
        self,
        inputs: Texts,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int = ...,
        show_progress_bar: bool | None = ...,
        *,
        titles: Titles = ...,
        **options: Unpack[EncodeOptions],
    ) -> Result: ...
    def encode_document(
        self,
        inputs: Texts | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        *,
        titles: Titles = None,
        **options: Unpack[EncodeOptions],
    ) -> Result:
        """As `encode`, with the first existing prompt of "document", "passage", "corpus" unless the call
        names another.

        `titles` (one str for one text, else one str or None per text) take the place of "none" in the prompt
        `title: none | text: `.

        Raises:
            InputError: also for more or fewer titles than texts, or a prompt without a place for a title.
        """
        choice = PromptChoice(prompt, prompt_name, options.get("task"), prompting.DOCUMENT_NAMES)
        return self._encode(inputs, choice, Options.of(batch_size, show_progress_bar, options), titles)

    def encode_iter(
        self,
        inputs: Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        **options: Unpack[VectorOptions],
    ) -> Iterator[tuple[int, NDArray[Any]]]:
        """(index, vector (D,)) for each text, in order, while `inputs` is still being read.

        Texts are read in windows of 32 batches, so memory stays flat however many there are.

        Raises:
            InputError: as `encode`; also for a precision that needs ranges.
        """
        settings = Options.of(batch_size, False, options)
        if settings.precision in ("int8", "uint8"):
            raise InputError(
                f"precision {settings.precision!r} needs the ranges of all vectors. Take float32 and use "
                "quantize_embeddings(vector, precision, ranges) with ranges from quantization_ranges()."
            )
        choice = PromptChoice(prompt, prompt_name, options.get("task"))
        windows = self.windows(join_requests(as_texts(inputs), self._prompt(choice)), settings)
        return ((w.start + i, v) for w in windows for i, v in enumerate(stored(w.vectors, settings)))

    def windows(
        self, requested: Iterable[Request], options: Options, *, strict: bool = True
    ) -> Iterator[Window]:
        """Results window by window, with token counts and marks of texts that were too long.

        Unless `strict`, a bad text becomes an entry of `Window.errors` instead of being raised.
        """
        prefixes = prompting.known_prefixes(self.prompts)
        settings = options.with_defaults(self.truncate_dim, self.overflow)
        return self._encoder.windows(requested, settings, prefixes=prefixes, strict=strict)

    def tokenize(self, texts: Texts) -> dict[str, NDArray[np.int64]]:
        """`input_ids` and `attention_mask`, int64 (N, S): right-padded, cut, and without a prompt."""
        cutter = self._encoder.cutter("truncate", allow_special=False)
        pieces = [cutter.pieces(Request("", text)) for text in as_texts(texts)]
        ids, mask = pad([piece.ids[0] for piece in pieces], self.manifest.tokenizer.pad_id)
        return {"input_ids": ids, "attention_mask": mask}

    def similarity(self, embeddings1: Vectors, embeddings2: Vectors) -> Scores:
        """Scores (N, M) of all pairs of (N, D) and (M, D), by `similarity_fn_name`."""
        scores = similarity.ALL_PAIRS[self.similarity_fn_name](embeddings1, embeddings2)
        return cast(Scores, like_inputs(scores, embeddings1, embeddings2))

    def similarity_pairwise(self, embeddings1: Vectors, embeddings2: Vectors) -> Scores:
        """Scores (N,) of row i of one with row i of the other, both (N, D), by `similarity_fn_name`."""
        scores = similarity.PAIRWISE[self.similarity_fn_name](embeddings1, embeddings2)
        return cast(Scores, like_inputs(scores, embeddings1, embeddings2))

    @property
    def similarity_fn_name(self) -> SimilarityName:
        """cosine, dot, euclidean or manhattan; may be set."""
        return self._similarity_fn_name

    @similarity_fn_name.setter
    def similarity_fn_name(self, value: SimilarityName) -> None:
        self._similarity_fn_name: SimilarityName = similarity.similarity_name(value)

    @property
    def max_seq_length(self) -> int:
        """Tokens read of each text, prompt, `<bos>` and `<eos>` included; may be lowered.

        It is the checkpoint's own, or a LiteRT graph's largest bucket if that is shorter.
        """
        return self._encoder.max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self._encoder.set_max_length(value)

    def to(self, device: Device) -> "Embedder":
        """This Embedder, if the device is the CPU."""
        check_device(device)
        return self

    @contextmanager
    def truncate_embeddings(self, truncate_dim: int | None) -> Iterator[None]:
        """Within the `with` block, `truncate_dim` is the default dimension; for one thread at a time."""
        self._encoder.check_dim(truncate_dim)
        before = self.truncate_dim
        self.truncate_dim = truncate_dim
        try:
            yield
        finally:
            self.truncate_dim = before

    def close(self) -> None:
        """Free the graph; calls still running finish, later ones raise EngineError."""
        self._encoder.close()

    def __enter__(self) -> "Embedder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        self._encoder.opened  # noqa: B018 (a closed one is refused)
        return reopen, (type(self), Pickled.of(self._path, self._choice, self))

    def __repr__(self) -> str:
        return (
            f"Embedder({self.manifest.source.name!r}, {self.graph.key}, dim={self.get_embedding_dimension()})"
        )

    def _prompt(self, choice: PromptChoice) -> str:
        return prompting.resolve(choice, self.prompts, self.manifest.aliases, self.default_prompt_name)

    def _encode(
        self, raw: Texts | None, choice: PromptChoice, options: Options, titles: Titles = None
    ) -> Result:
        inputs = as_inputs(raw, options.sentences)
        single = is_single(inputs)
        texts = as_texts(inputs)
        requested = join_requests(texts, self._prompt(choice), one_title(titles) if single else titles)
        total = len(texts) if isinstance(texts, list) else None
        settings = options.with_defaults(self.truncate_dim, self.overflow)
        with Progress(total, is_shown(options.show_progress_bar)) as progress:
            return collect(progress.counted(self.windows(requested, settings)), total, settings, single)
