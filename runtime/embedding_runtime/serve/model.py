"""The bundle as the service uses it: prompts, token ids, vectors. `service` handles the requests."""

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.encoding import prompts as prompting
from embedding_runtime.encoding.options import Options
from embedding_runtime.encoding.overflow import Pieces, Request
from embedding_runtime.encoding.pipeline import Encoder
from embedding_runtime.encoding.prompts import PromptChoice
from embedding_runtime.encoding.stream import finished
from embedding_runtime.errors import InputError
from embedding_runtime.opening.open_bundle import open_bundle
from embedding_runtime.serve.failures import ServiceError
from embedding_runtime.serve.settings import Settings
from embedding_runtime.stamps.stamp import Stamp
from embedding_runtime.vectors import Floats


class Model:
    """An opened bundle; its methods may be called from several threads at once."""

    def __init__(self, settings: Settings) -> None:
        """Open the bundle.

        Raises:
            BundleError, EngineError, InputError: as `Embedder`.
        """
        opened = open_bundle(settings.bundle, settings.choice)
        self.manifest, self.graph = opened.manifest, opened.graph
        self.max_tokens = opened.max_length
        self.created = int((settings.bundle / "manifest.json").stat().st_mtime)
        self._encoder = Encoder(opened)
        self._stream = self._encoder.stream(settings.overflow, allow_special=False)
        self._batch_size = settings.batch_size
        self._prompts = {"query": "", "document": "", **self.manifest.prompts}

    @property
    def name(self) -> str:
        """The name by which clients call it: the checkpoint's."""
        return self.manifest.source.name

    def is_called(self, name: str) -> bool:
        """Whether `name`, with or without the owner, is this model's name."""
        return name in (self.name, self.name.rpartition("/")[2])

    def unknown(self, name: object) -> ServiceError:
        """The error for a client that asks for another model."""
        return ServiceError(
            404,
            f"There is no model {str(name)[:80]!r} here; this service has {self.name!r}.",
            code="model_not_found",
            param="model",
        )

    @property
    def dims(self) -> tuple[int, ...]:
        """Numbers of components that the model was trained to be cut to, largest first."""
        own = self.manifest.truncate_dim
        sizes = {self.manifest.embedding_dim, *self.manifest.dims, *(() if own is None else (own,))}
        return tuple(sorted(sizes, reverse=True))

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of its prompts."""
        return tuple(self._prompts)

    def prompt(self, task: str | None, titled: bool) -> str:
        """The prompt that goes before each text; the document prompt if there are titles and no task.

        Raises:
            InputError: no such task, or one whose prompt has no place for a title.
        """
        if task is None and titled:
            task = next((n for n in prompting.DOCUMENT_NAMES if self._prompts.get(n)), None)
        prompt = prompting.resolve(
            PromptChoice(task=task), self._prompts, self.manifest.aliases, self.manifest.default_prompt_name
        )
        if titled:
            prompting.with_title(prompt, None)
        return prompt

    def pieces(self, request: Request) -> Pieces:
        """Token ids of a text.

        Raises:
            InputError: it cannot be encoded, or is too long; the caller prefixes the message with its
                subject.
        """
        return self._stream.pieces(request)

    def check_ids(self, ids: list[int]) -> Pieces:
        """Check token ids that a client has made; refuse them unless they can only be this tokenizer's.

        Clients written for OpenAI send ids of another tokenizer, which would give vectors of other texts.

        Raises:
            InputError: the ids are not this tokenizer's; the caller prefixes the message with its subject.
        """
        info = self.manifest.tokenizer
        if len(ids) > self.max_tokens:
            raise InputError(f"has {len(ids)} token ids; the model reads {self.max_tokens}.")
        inner = ids[1:-1]
        ends = len(ids) >= 2 and ids[0] == info.bos_id and ids[-1] == info.eos_id
        if not ends or {info.bos_id, info.eos_id, info.pad_id} & set(inner):
            raise InputError(
                f"has token ids that are not this model's: expected {info.bos_id} (<bos>) first, "
                f"{info.eos_id} (<eos>) last and neither between. Send text instead; LangChain's "
                "OpenAIEmbeddings does with check_embedding_ctx_length=False."
            )
        if strange := next((i for i in inner if not 0 <= i < info.vocab_size), None):
            raise InputError(f"has the token id {strange}; the vocabulary has {info.vocab_size}.")
        array = np.array(ids, dtype=np.int32)
        self._stream.session.check_ids(array)
        return Pieces([array], long=False)

    def run(self, sequences: list[NDArray[np.int32]], unpooled: list[int]) -> Floats:
        """The graph's vectors (N, D) of sequences, whose first `unpooled` tokens are not averaged.

        Raises:
            EngineError: the engine failed.
        """
        return self._stream.run(sequences, unpooled, self._encoder.settings(self._options(None)))[0]

    def finished(self, vectors: Floats, pieces: list[Pieces], dim: int | None) -> Floats:
        """One vector per text (N, dim), as from `Embedder.encode`, from those of all its sequences."""
        width = self.manifest.truncate_dim if dim is None else dim
        return finished(vectors, pieces, self._encoder.settings(self._options(width)))

    def stamp(self, prompt: str | None, dim: int | None) -> str:
        """The stamp of an answer's vectors, as JSON in ASCII; see `Stamp`."""
        width = dim or self.manifest.truncate_dim or self.manifest.embedding_dim
        return Stamp.of(self.manifest, self.graph, width, prompt, self._prompts).to_json()

    def _options(self, dim: int | None) -> Options:
        return Options(batch_size=self._batch_size, dim=dim)
