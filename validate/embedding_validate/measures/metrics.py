"""Pure functions that compare vectors and token ids: arrays in, numbers out. Sums run in float64."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32] | NDArray[np.float64]


def cosine(a: Array, b: Array) -> float:
    """Cosine of two vectors of shape (dim,): a·b / (‖a‖ ‖b‖); 0 when either is zero, NaN when not finite."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    scale = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / scale if scale != 0 else 0.0


def max_abs_error(a: Array, b: Array) -> float:
    """Largest |aᵢ − bᵢ| of two arrays of one shape; NaN when either is not finite."""
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0.0))


def norm(a: Array) -> float:
    """Euclidean norm ‖a‖ = √Σ aᵢ²."""
    return float(np.linalg.norm(a.astype(np.float64)))


def finite(a: Array) -> bool:
    """Whether no component is NaN or infinite."""
    return bool(np.isfinite(a).all())


def unit(vectors: Array) -> NDArray[np.float64]:
    """x / max(‖x‖, 1e-12) for each vector x of (..., dim): the rule of `torch.nn.functional.normalize`."""
    wide = vectors.astype(np.float64)
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=-1, keepdims=True), 1e-12))


def normalized(a: Array) -> NDArray[np.float32]:
    """`unit` of a vector, float32."""
    return unit(a).astype(np.float32)


def first_difference(a: Sequence[int], b: Sequence[int]) -> int | None:
    """Index of the first token id that differs (the shorter length when one continues the other), or None."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return None if len(a) == len(b) else min(len(a), len(b))


@dataclass(frozen=True)
class Summary:
    """Least, first percentile (linear interpolation), arithmetic mean and largest of `count` values.

    `ci95` is half the width of the mean's confidence interval; see the function `ci95`.
    """

    count: int
    minimum: float
    p1: float
    mean: float
    ci95: float
    maximum: float


def ci95(values: Sequence[float]) -> float:
    """Half the width of a mean's 95 % confidence interval, 1.96 s / √n with s² = Σ (xᵢ − x̄)² / (n − 1).

    0 for fewer than two values. The values are taken to be independent.
    """
    if len(values) < 2:
        return 0.0
    return 1.96 * float(np.std(np.asarray(values, np.float64), ddof=1)) / math.sqrt(len(values))


def summarize(values: Sequence[float]) -> Summary | None:
    """Summary of the values, or None when there are none; NaN if any value is NaN."""
    if not values:
        return None
    v = np.asarray(values, dtype=np.float64)
    p1, mean = float(np.percentile(v, 1)), float(v.mean())
    return Summary(v.size, float(v.min()), p1, mean, ci95(values), float(v.max()))


@dataclass(frozen=True)
class Figures:
    """One vector compared with the reference's; NaN if there is no vector to compare.

    `norm_error` is | ‖v‖ − ‖r‖ |; `finite` is false when any component is NaN or infinite.
    """

    cosine: float
    max_abs_error: float
    norm_error: float
    finite: bool

    @classmethod
    def of(cls, reference: Array, vector: Array) -> "Figures":
        """Figures of two vectors of shape (dim,); other shapes count as no vector."""
        if vector.shape != reference.shape:
            return cls.none()
        return cls(
            cosine(reference, vector),
            max_abs_error(reference, vector),
            abs(norm(vector) - norm(reference)),
            finite(vector),
        )

    @classmethod
    def none(cls) -> "Figures":
        """Figures for a missing vector."""
        return cls(math.nan, math.nan, math.nan, False)
