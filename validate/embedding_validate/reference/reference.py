"""The reference: sentence-transformers on the checkpoint, in float32 on the CPU, one text at a time.

This is the only file that imports sentence-transformers or transformers.

    reference = Reference.load(checkpoint)
    reference.token_ids("text", prompt="task: ... ")      what the model sees, after truncation
    reference.encode(["text"], prompt_name="query")       float32 (n, dim)
    reference.answer(probe_set)                           everything a comparison needs
"""

import contextlib
import gc
import importlib
import importlib.util
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.machine.process_memory import give_back_memory
from embedding_validate.probes.probes import TITLE_SLOT, Limits, Probe, ProbeSet
from embedding_validate.reference import chunks
from embedding_validate.reference.answers import Answer, Answers
from embedding_validate.reference.checks import (
    ReferenceLoadError,
    require_bidirectional,
    require_layers,
    require_weights,
)
from embedding_validate.reference.chunks import Chunk
from embedding_validate.reference.text_only import has_processor, write_text_only

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from embedding_export.checkpoint.checkpoint import Checkpoint

PACKAGES = ("sentence-transformers", "transformers", "torch", "tokenizers")
_DOCUMENT_NAMES = ("document", "passage", "corpus")

Floats = NDArray[np.float32]
T = TypeVar("T")


def unavailable() -> str | None:
    """The reason why the reference cannot run, or None if it can."""
    for module in ("sentence_transformers", "transformers", "torch"):
        if not _installed(module):
            return f'{module} is not installed (pip install "embedding-edge[validate]")'
    return None


def require() -> None:
    """Raise if the reference cannot run.

    Raises:
        ReferenceLoadError: packages missing.
    """
    if reason := unavailable():
        raise ReferenceLoadError(f"The reference cannot run: {reason}.")


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (
        ImportError,
        ValueError,
    ):  # an import hook refuses it, or what is loaded under the name has no spec
        return False


def ask(
    checkpoint: "Checkpoint",
    choose: "Callable[[Reference], ProbeSet]",
    progress: Callable[[int, int], None],
) -> Answers:
    """The answers of a checkpoint's reference to the probes that `choose` picks; its memory is released.

    Raises:
        ReferenceLoadError: as `Reference.load`.
    """
    return use_reference(checkpoint, lambda reference: reference.answer(choose(reference), progress))


def use_reference(checkpoint: "Checkpoint", use: "Callable[[Reference], T]") -> T:
    """The result of `use` on a checkpoint's reference; the reference's memory is released.

    Raises:
        ReferenceLoadError: as `Reference.load`.
    """
    reference = Reference.load(checkpoint)
    result = use(reference)
    del reference
    gc.collect()  # torch's modules stand in cycles
    give_back_memory()
    return result


class Reference:
    """A loaded reference. Each distinct sequence of token ids is computed once and remembered."""

    def __init__(self, model: "SentenceTransformer", checkpoint: "Checkpoint") -> None:
        self._model = model
        self._checkpoint = checkpoint
        self._vectors: dict[tuple[str, tuple[int, ...]], Floats] = {}

    @classmethod
    def load(cls, checkpoint: "Checkpoint") -> "Reference":
        """Load sentence-transformers on a checkpoint and make sure that it computes that model.

        Raises:
            ReferenceLoadError: packages missing, the checkpoint does not load, weights not float32 or not the
                checkpoint's, a model that attends causally, with another window, or with other layer types
                than the checkpoint.
        """
        require()
        reference = cls(load_model(checkpoint), checkpoint)
        require_bidirectional(reference._transformer)
        require_layers(reference._transformer, checkpoint)
        return reference

    @property
    def checkpoint(self) -> "Checkpoint":
        """The checkpoint it runs."""
        return self._checkpoint

    @property
    def limits(self) -> Limits:
        """The limits that probes must straddle."""
        config = self._checkpoint.config
        window = config.window if "local" in config.layer_types else None
        return Limits(window, self.max_seq_length, added=self._checkpoint.tokenizer.owner_tokens)

    @property
    def max_seq_length(self) -> int:
        """Longest sequence in tokens, control tokens included."""
        return int(self._model.max_seq_length or self._checkpoint.max_seq_length)

    @property
    def prompts(self) -> dict[str, str]:
        """The prompts by name, as sentence-transformers read them (its own empty defaults left out)."""
        return {k: v or "" for k, v in self._model.prompts.items() if k in self._checkpoint.prompts or v}

    @property
    def dim(self) -> int:
        """Components of a vector."""
        return int(self._model.get_embedding_dimension() or 0)

    def count(self, text: str) -> int:
        """Tokens of a text as `encode` sees it (default prompt and control tokens included), untruncated."""
        whole = self.prompt_text() + text
        with self._reading(whole):
            return len(self._untruncated(whole))

    def prompt_text(self, prompt_name: str | None = None) -> str:
        """The prompt of a name; without a name the default prompt's, or ""."""
        name = self._model.default_prompt_name if prompt_name is None else prompt_name
        return self._model.prompts[name] or "" if name is not None else ""

    def token_ids(self, text: str, prompt: str = "", *, allow_special: bool = False) -> tuple[int, ...]:
        """The ids that the model gets for prompt + text, after truncation.

        `allow_special` True is sentence-transformers' own behaviour, literal control tokens become ids; False
        reads them as text.
        """
        with self._reading(prompt + text, allow_special):
            features = self._model.preprocess([text], prompt=prompt)
        return tuple(features["input_ids"][0].tolist())

    def vector(self, text: str, prompt: str = "", *, allow_special: bool = False) -> Floats:
        """The vector of prompt + text, alone in its batch: float32 (dim,), normalised as in the
        checkpoint."""
        ids = self.token_ids(text, prompt, allow_special=allow_special)
        key = "" if self._checkpoint.include_prompt else prompt, ids  # where it is pooled, ids say it all
        if key not in self._vectors:
            with self._reading(prompt + text, allow_special):
                self._vectors[key] = self._model.encode([text], prompt=prompt, show_progress_bar=False)[0]
        return self._vectors[key]

    def encode(self, texts: Sequence[str], *, prompt_name: str | None = None) -> Floats:
        """Vectors of shape (n, dim), each text alone; without a name, the default prompt."""
        prompt = self.prompt_text(prompt_name)
        return np.stack([self.vector(t, prompt) for t in texts])

    def hidden_states(self, text: str, prompt: str = "") -> Floats:
        """Last hidden states after the final norm, float32 of shape (tokens, hidden size)."""
        with self._reading(prompt + text):
            states = self._model.encode([text], prompt=prompt, output_value="token_embeddings")[0]
        return np.asarray(states.cpu().numpy(), dtype=np.float32)

    def answer_one(self, probe: Probe) -> Answer:
        """Ids and vector for one probe; the ids of a text in chunks are those of all chunks in order.

        Raises:
            ReferenceLoadError: a title where the document prompt has no place for one.
            ChunkError: the runtime's cutter does not give all of the text.
        """
        prompt, special = self.prompt_of(probe), probe.allow_special
        if probe.chunked_at is not None:
            pieces = self.chunks(probe)
            vectors = [self.vector(c.text, prompt) for c in pieces]
            mean = chunks.mean(vectors, [len(c.ids) for c in pieces], self._checkpoint.normalize)
            return Answer(tuple(i for c in pieces for i in c.ids), mean)
        return Answer(
            self.token_ids(probe.text, prompt, allow_special=special),
            self._vector_of_call(probe, prompt),
        )

    def _vector_of_call(self, probe: Probe, prompt: str) -> Floats:
        """The vector that a user's call gives; if the verb chooses the prompt, its own method is called."""
        if probe.verb == "encode" or probe.title is not None:
            return self.vector(probe.text, prompt, allow_special=probe.allow_special)
        ask = getattr(self._model, probe.verb)
        with self._reading(prompt + probe.text, probe.allow_special):
            vectors = ask([probe.text], prompt_name=probe.prompt_name, show_progress_bar=False)
        return np.asarray(vectors[0], np.float32)

    def answer(self, probes: ProbeSet, progress: Callable[[int, int], None] = lambda _d, _t: None) -> Answers:
        """Answers to all probes, with hidden states for those that run at every dim; `progress` gets (done,
        total) before each."""
        answers = {}
        for done, probe in enumerate(probes.probes):
            progress(done, len(probes.probes))
            answer = self.answer_one(probe)
            if probe.id in probes.dims:
                answer = replace(answer, states=self.hidden_states(probe.text, self.prompt_of(probe)))
            answers[probe.id] = answer
        return Answers(
            probes=probes,
            by_probe=answers,
            source=self._checkpoint.source,
            prompts=self.prompts,
            default_prompt_name=self._model.default_prompt_name,
            similarity_fn_name=self._model.similarity_fn_name,
            max_seq_length=self.max_seq_length,
            versions={name: version(name) for name in PACKAGES},
        )

    def chunks(self, probe: Probe) -> tuple[Chunk, ...]:
        """The pieces of a probe that overflows.

        Raises:
            ChunkError: they are not the text, whole and in order.
        """
        assert probe.chunked_at is not None
        prompt = self.prompt_of(probe)
        with self._reading(prompt + probe.text):
            return chunks.cut(prompt, probe.text, probe.chunked_at, self._untruncated)

    def whole_ids(self, probe: Probe) -> tuple[int, ...]:
        """The ids of a probe before truncation, prompt included."""
        whole = self.prompt_of(probe) + probe.text
        with self._reading(whole, probe.allow_special):
            return self._untruncated(whole)

    def prompt_of(self, probe: Probe) -> str:
        """The prompt before the text: the named one, the verb's own, or the default.

        Raises:
            ReferenceLoadError: a title where the document prompt has no place for one.
        """
        names = {"encode": (), "encode_query": ("query",), "encode_document": _DOCUMENT_NAMES}[probe.verb]
        prompts = self._model.prompts
        prompt = self.prompt_text(probe.prompt_name or next((n for n in names if n in prompts), None))
        if probe.title is None:
            return prompt
        if TITLE_SLOT not in prompt:
            raise ReferenceLoadError(
                f"Probe {probe.id!r} has a title, but the document prompt {prompt!r} has no {TITLE_SLOT!r}. "
                "Leave the title out."
            )
        return prompt.replace(TITLE_SLOT, f"title: {probe.title}", 1)

    def _untruncated(self, text: str) -> tuple[int, ...]:
        return tuple(self._model.tokenizer(text, truncation=False, padding=False, verbose=False)["input_ids"])

    @property
    def _transformer(self) -> Any:
        model = self._model[0].auto_model
        return getattr(model, "language_model", model)

    @contextlib.contextmanager
    def _reading(self, text: str, allow_special: bool = False) -> Iterator[None]:
        """Read `text` as sentence-transformers does, or, if it has control tokens that must be text, with
        those as text.

        For the latter the library's tokenizer is exchanged for one in which only they are special, and which
        splits special tokens (`encode_special_tokens`).
        """
        if allow_special or not any(t in text for t in self._checkpoint.tokenizer.control_tokens):
            yield
            return
        tokenizer = self._model.tokenizer
        before = tokenizer._tokenizer, tokenizer.split_special_tokens
        tokenizer._tokenizer, tokenizer.split_special_tokens = self._splitting, True
        try:
            yield
        finally:
            tokenizer._tokenizer, tokenizer.split_special_tokens = before

    @cached_property
    def _splitting(self) -> Any:
        own = self._model.tokenizer._tokenizer
        if not self._checkpoint.tokenizer.is_changed:
            return own
        replacement = type(own).from_str(self._checkpoint.tokenizer.text)
        self._checkpoint.tokenizer.release()
        replacement.normalizer = own.normalizer  # where sentence-transformers has put what lowers the case
        return replacement


@contextlib.contextmanager
def _loadable(checkpoint: "Checkpoint") -> Iterator[Path]:
    """The folder to load: the checkpoint's, or its view for text alone if a processor would read texts."""
    from transformers.utils import logging as library_log

    if not has_processor(checkpoint.path):
        yield checkpoint.path
        return
    before = library_log.get_verbosity()
    library_log.set_verbosity_error()  # type: ignore[no-untyped-call]  # of tensors that are left out
    try:
        with tempfile.TemporaryDirectory(prefix="text-only-") as view:
            write_text_only(checkpoint.path, Path(view))
            yield Path(view)
    finally:
        library_log.set_verbosity(before)


def import_libraries() -> None:
    """Import the modules that `load_model` needs. This takes seconds, and loading can then be timed without
    it.

    transformers imports torchao if that is installed (LiteRT's converter needs it), and torchao logs every
    GPU kernel that it cannot load.
    """
    for noisy in ("torchao", "torch.utils._pytree"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    importlib.import_module("sentence_transformers")


def load_model(checkpoint: "Checkpoint", dtype: str = "float32") -> "SentenceTransformer":
    """The bare model on the CPU, unchecked, with whole vectors; to compare, use `Reference.load`.

    Raises:
        ReferenceLoadError: it does not load, not with the checkpoint's weights, or not in float32.
    """
    import_libraries()
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as progress

    progress.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with _loadable(checkpoint) as folder:
            model = SentenceTransformer(
                str(folder),
                device="cpu",
                local_files_only=True,
                model_kwargs={"dtype": getattr(torch, dtype)},
                config_kwargs=dict(checkpoint.config_overrides),
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as e:
        raise ReferenceLoadError(
            f"sentence-transformers {version('sentence-transformers')} cannot load {checkpoint.path} "
            f"({type(e).__name__}: {e}). Check that the folder is complete."
        ) from e
    finally:
        progress.enable_progress_bar()  # type: ignore[no-untyped-call]
    model.truncate_dim = None
    model.max_seq_length = min(model.max_seq_length or sys.maxsize, checkpoint.max_seq_length)
    require_weights(model[0].auto_model, checkpoint)
    if dtype != "float32":
        return model.to(getattr(torch, dtype)).eval()  # the stages after the encoder come in float32
    if kinds := {str(p.dtype) for p in model.parameters() if p.dtype != torch.float32}:
        raise ReferenceLoadError(
            f"The reference was loaded with weights of {sorted(kinds)}, not float32 alone. "
            "Install the pinned versions: pip install 'embedding-edge[validate]'"
        )
    return model.eval()
