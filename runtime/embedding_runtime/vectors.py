"""Arithmetic on vectors (slice, normalise, weigh), and how JSON spells them."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
F = TypeVar("F", bound=np.floating[Any])

# torch.nn.functional.normalize divides by max(norm, eps) with this eps.
NORM_EPSILON = 1e-12


def l2_normalize(vectors: NDArray[F]) -> NDArray[F]:
    """Vectors of shape (..., D) divided by their Euclidean length, in their dtype; zero vectors stay zero."""
    norms = np.sqrt(np.sum(np.square(vectors), axis=-1, keepdims=True))
    scaled: NDArray[F] = vectors / np.maximum(norms, vectors.dtype.type(NORM_EPSILON))
    return scaled


def truncate(vectors: Floats, dim: int | None) -> Floats:
    """The first `dim` components of vectors of shape (..., D), not renormalised; None keeps all."""
    return vectors if dim is None else vectors[..., :dim]


def weighted_mean(vectors: Floats, weights: Sequence[int]) -> Floats:
    """Mean of vectors (N, D) with weights (N,), accumulated in float64; result float32 (D,)."""
    return np.average(vectors, axis=0, weights=weights).astype(np.float32)


def as_json(vector: NDArray[Any]) -> str:
    """A vector (D,) as a JSON array; nine digits give back the exact float32."""
    each = "%.9g" if vector.dtype.kind == "f" else "%d"
    return "[" + ", ".join([each] * len(vector)) % tuple(vector.tolist()) + "]"
