"""The part of the manifest that describes how a graph was composed for a target cosine."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CurvePoint:
    """A composition that was weighed: the `part` that has 8 bits here and in all that follow (None: all parts
    have 4), bytes of graph and weights, the mean cosine estimated on the texts that were calibrated on, and
    the one measured on others, where it was."""

    part: str | None
    bytes: int
    estimated_cosine: float
    cosine: float | None = None


@dataclass(frozen=True)
class Composition:
    """The `bits` of each part of a graph that was made for a mean cosine of `target_cosine` to the float32
    model, the cosines over so many `texts` that were not calibrated on, and what else was weighed, smallest
    first."""

    target_cosine: float
    bits: dict[str, int]
    texts: int
    cosine_mean: float
    cosine_min: float
    curve: tuple[CurvePoint, ...]
