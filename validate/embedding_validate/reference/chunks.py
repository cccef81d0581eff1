"""Computes the vector that a text in chunks should have, by the rule that the runtime documents.

The rule: the prompt goes before each piece of the text, every piece is tokenized again, and the vectors are
averaged, weighted by tokens; if the checkpoint normalises, the mean is normalised again. The runtime is free
to choose where to cut, so its cutter is used here; the pieces must be the text, whole and in order. The
caller passes the functions that tokenize and encode.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.encoding.overflow import Cutter, Request
from embedding_runtime.errors import EmbeddingError
from embedding_runtime.tokenizers.tokenizer import Tokenizer
from embedding_validate.measures import metrics

Floats = NDArray[np.float32]
Ids = tuple[int, ...]


class ChunkError(EmbeddingError):
    """The pieces of a text do not make up the text."""


@dataclass(frozen=True)
class Chunk:
    """A piece of a text, and its token ids with the prompt before it and control tokens around it."""

    text: str
    ids: Ids


@dataclass
class _Recorder:
    """The part of the reference's tokenizer that the cutter uses; remembers which text gave which ids."""

    ids_of: Callable[[str], Ids]
    texts: dict[Ids, str]

    def encode(self, text: str, max_length: int | None = None, *, allow_special: bool = False) -> list[int]:
        ids = self.ids_of(text)
        self.texts[ids] = text
        return list(ids)


def cut(prompt: str, text: str, limit: int, ids_of: Callable[[str], Ids]) -> tuple[Chunk, ...]:
    """The pieces of a text of at most `limit` tokens each; `ids_of` is the reference's tokenizer.

    Raises:
        ChunkError: the pieces, one after the other, are not the text.
        InputError: the prompt leaves no room.
    """
    recorder = _Recorder(ids_of, {})
    pieces = Cutter(cast(Tokenizer, recorder), limit, "chunk", allow_special=False).pieces(
        Request(prompt, text)
    )
    whole = [tuple(ids.tolist()) for ids in pieces.ids]
    chunks = tuple(Chunk(recorder.texts.get(ids, "").removeprefix(prompt), ids) for ids in whole)
    if "".join(c.text for c in chunks) != text or max(map(len, whole)) > limit:
        raise ChunkError(
            f"The chunks of {text[:40]!r}... are not the text, whole and in order, in pieces of at most "
            f"{limit} tokens. This is a fault of the runtime's cutter; please report it."
        )
    return chunks


def mean(vectors: Sequence[Floats], tokens: Sequence[int], normalize: bool) -> Floats:
    """Σ nᵢ vᵢ / Σ nᵢ of vectors (dim,), summed in float64; normalised if the checkpoint does."""
    vector = np.average(np.stack(vectors), axis=0, weights=tokens).astype(np.float32)
    return metrics.normalized(vector) if normalize else vector


@dataclass(frozen=True)
class Overflow:
    """A text in chunks: the prompt before each, the chunks, and the ids if truncated instead."""

    prompt: str
    chunks: tuple[Chunk, ...]
    truncated: Ids
    normalize: bool


def faults(
    case: Overflow, vector_of: Callable[[Ids], Floats], ids_of: Callable[[str], Ids]
) -> Mapping[str, Floats]:
    """The vectors that known mistakes with chunks would give, by name."""
    ids = [c.ids for c in case.chunks]
    vectors, tokens = [vector_of(i) for i in ids], [len(i) for i in ids]
    by_name = {
        "chunks: the text is truncated instead": vector_of(case.truncated),
        "chunks: mean not weighted by tokens": mean(vectors, [1] * len(vectors), case.normalize),
        "chunks: the last one lost": mean(vectors[:-1], tokens[:-1], case.normalize),
    }
    if case.normalize:
        by_name["chunks: mean not normalised"] = mean(vectors, tokens, False)
    if case.prompt:
        bare = [ids[0], *(ids_of(c.text) for c in case.chunks[1:])]
        by_name["chunks: prompt before the first one alone"] = mean(
            [vector_of(i) for i in bare], [len(i) for i in bare], case.normalize
        )
    return by_name
