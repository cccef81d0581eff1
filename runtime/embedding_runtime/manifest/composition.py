"""The part of the manifest that describes how a graph was composed for a target cosine."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CurvePoint:
    """A composition that was considered: the `part` that has 8 bits here and in all later ones (None: all
    parts have 4), the bytes of graph and weights, the mean cosine estimated on the calibration texts, and the
    one measured on other texts, if it was."""

    part: str | None
    bytes: int
    estimated_cosine: float
    cosine: float | None = None


@dataclass(frozen=True)
class Composition:
    """How a graph was composed for a mean cosine of `target_cosine` to the float32 model: the `bits` of each
    part, the cosines over `texts` texts that calibration did not use, and the other compositions considered,
    smallest first."""

    target_cosine: float
    bits: dict[str, int]
    texts: int
    cosine_mean: float
    cosine_min: float
    curve: tuple[CurvePoint, ...]
