"""The four similarity functions of sentence-transformers, over numpy.

Distances are negated, so that a larger score always means more alike. Cosine normalises its arguments, dot
does not.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.errors import InputError
from embedding_runtime.vectors import l2_normalize

SimilarityName = Literal["cosine", "dot", "euclidean", "manhattan"]
NAMES: dict[str, SimilarityName] = {name: name for name in get_args(SimilarityName)}
Vectors = NDArray[Any] | Sequence[NDArray[Any]] | Sequence[Sequence[float]] | Sequence[float]
Scores = NDArray[Any]


class SimilarityFunction(StrEnum):
    """Names of the similarity functions, as sentence-transformers spells them."""

    COSINE = "cosine"
    DOT_PRODUCT = "dot"
    DOT = "dot"
    EUCLIDEAN = "euclidean"
    MANHATTAN = "manhattan"


def cos_sim(a: Vectors, b: Vectors) -> Scores:
    """Cosine of every row of `a` (N, D) with every row of `b` (M, D): (N, M)."""
    x, y = _matrices(a, b)
    scores: Scores = l2_normalize(x) @ l2_normalize(y).T
    return scores


def dot_score(a: Vectors, b: Vectors) -> Scores:
    """Dot product of every row of `a` (N, D) with every row of `b` (M, D): (N, M)."""
    x, y = _matrices(a, b)
    scores: Scores = x @ y.T
    return scores


def euclidean_sim(a: Vectors, b: Vectors) -> Scores:
    """Minus the Euclidean distance of every row of `a` (N, D) to every row of `b` (M, D): (N, M)."""
    x, y = _matrices(a, b)
    return _by_row(x, y, lambda row: -np.sqrt(np.sum(np.square(y - row), axis=-1)))


def manhattan_sim(a: Vectors, b: Vectors) -> Scores:
    """Minus the Manhattan distance of every row of `a` (N, D) to every row of `b` (M, D): (N, M)."""
    x, y = _matrices(a, b)
    return _by_row(x, y, lambda row: -np.sum(np.abs(y - row), axis=-1))


def pairwise_cos_sim(a: Vectors, b: Vectors) -> Scores:
    """Cosine of row i of `a` with row i of `b`, both (N, D): (N,); two vectors (D,) give one number."""
    x, y = _alike(a, b)
    scores: Scores = np.sum(l2_normalize(x) * l2_normalize(y), axis=-1)
    return scores


def pairwise_dot_score(a: Vectors, b: Vectors) -> Scores:
    """Dot product of row i of `a` with row i of `b`, both (N, D): (N,)."""
    x, y = _alike(a, b)
    scores: Scores = np.sum(x * y, axis=-1)
    return scores


def pairwise_euclidean_sim(a: Vectors, b: Vectors) -> Scores:
    """Minus the Euclidean distance of row i of `a` to row i of `b`, both (N, D): (N,)."""
    x, y = _alike(a, b)
    scores: Scores = -np.sqrt(np.sum(np.square(x - y), axis=-1))
    return scores


def pairwise_manhattan_sim(a: Vectors, b: Vectors) -> Scores:
    """Minus the Manhattan distance of row i of `a` to row i of `b`, both (N, D): (N,)."""
    x, y = _alike(a, b)
    scores: Scores = -np.sum(np.abs(x - y), axis=-1)
    return scores


ScoreFunction = Callable[[Vectors, Vectors], Scores]

ALL_PAIRS: dict[str, ScoreFunction] = {
    "cosine": cos_sim,
    "dot": dot_score,
    "euclidean": euclidean_sim,
    "manhattan": manhattan_sim,
}
PAIRWISE: dict[str, ScoreFunction] = {
    "cosine": pairwise_cos_sim,
    "dot": pairwise_dot_score,
    "euclidean": pairwise_euclidean_sim,
    "manhattan": pairwise_manhattan_sim,
}


def similarity_name(value: str) -> SimilarityName:
    """A similarity function's name, checked.

    Raises:
        InputError: not one of the four.
    """
    if value in NAMES:
        return NAMES[value]
    raise InputError(f"similarity_fn_name is {value!r}; expected one of {list(NAMES)}.")


def _floats(vectors: Vectors) -> NDArray[Any]:
    """An array of float32 or wider: sums of small integers or halves would overflow or round."""
    listed = isinstance(vectors, (list, tuple)) and not any(isinstance(v, np.ndarray) for v in vectors)
    array = np.asarray(vectors, dtype=np.float32 if listed else None)
    wide = array.dtype.kind == "f" and array.dtype.itemsize >= 4
    return array if wide else array.astype(np.float32)


def _matrices(a: Vectors, b: Vectors) -> tuple[NDArray[Any], NDArray[Any]]:
    x, y = np.atleast_2d(_floats(a)), np.atleast_2d(_floats(b))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise InputError(f"Vectors have shapes {x.shape} and {y.shape}; expected (N, D) and (M, D) of one D.")
    return x, y


def _alike(a: Vectors, b: Vectors) -> tuple[NDArray[Any], NDArray[Any]]:
    x, y = _floats(a), _floats(b)
    if x.shape[-1:] != y.shape[-1:] or (
        x.ndim == y.ndim == 2 and 1 not in (len(x), len(y)) and len(x) != len(y)
    ):
        raise InputError(f"Vectors have shapes {x.shape} and {y.shape}; expected the same for both.")
    return x, y


def _by_row(x: NDArray[Any], y: NDArray[Any], score: Callable[[NDArray[Any]], NDArray[Any]]) -> Scores:
    """Computes row by row: a broadcast over both would need N x M x D numbers."""
    scores = np.empty((len(x), len(y)), dtype=np.result_type(x, y))
    for i, row in enumerate(x):
        scores[i] = score(row)
    return scores
