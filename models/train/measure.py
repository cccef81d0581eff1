"""Retrieval and rank correlation on vectors; pure functions, knows no model."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def normalised(vectors: Floats) -> Floats:
    """Rows of length 1; a row of zeros stays zero."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    found: Floats = (vectors / np.maximum(norms, 1e-12)).astype(np.float32)
    return found


def ranks(queries: Floats, candidates: Floats, right: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each query the rank (1 is best) of candidate `right[i]`, by cosine; ties count against it."""
    scores = normalised(queries) @ normalised(candidates).T
    own = scores[np.arange(len(queries)), right]
    better = (scores >= own[:, None]).sum(axis=1)
    found: NDArray[np.int64] = np.maximum(better, 1).astype(np.int64)
    return found


def recall(found: NDArray[np.int64], at: int) -> float:
    """Share of the queries whose right candidate is among the first `at`."""
    return float((found <= at).mean())


def reciprocal(found: NDArray[np.int64]) -> float:
    """Mean reciprocal rank."""
    return float((1.0 / found).mean())


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Rank correlation with mean ranks for ties."""
    return float(np.corrcoef(_mean_ranks(a), _mean_ranks(b))[0, 1])


def _mean_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    means: NDArray[np.float64] = ends - (counts - 1) / 2.0
    return means[inverse]
