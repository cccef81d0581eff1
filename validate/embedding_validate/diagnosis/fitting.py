"""Finds which of several known faults fits the evidence, and puts it into words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from embedding_validate.measures import metrics
from embedding_validate.measures.metrics import Figures
from embedding_validate.parity.results import Finding
from embedding_validate.runners.calls import Floats

# Of several faults that fit, those with less than this multiple of the least error cannot be told apart.
_TIE = 2.0
# Where that many cannot be told apart, none of them is named.
_MOST_NAMES = 3
# Where rounding is in the comparison, a fault must explain this much more than no fault at all.
_BETTER = 0.5


@dataclass(frozen=True)
class Evidence:
    """A sequence of ids, the bundle's vector for it, and the reference's."""

    ids: tuple[int, ...]
    actual: Floats
    expected: Floats


@dataclass(frozen=True)
class Fit:
    """How well a fault's vector fits the actual one: whether it passes, its error and its cosine."""

    passes: bool
    error: float
    cosine: float

    @classmethod
    def of(cls, vector: Floats, actual: Floats, failures: Callable[[float, Figures], Sequence[str]]) -> "Fit":
        """The fit by bounds on vectors: `failures` gets the norm of `vector`, and the figures of both."""
        figures = Figures.of(vector, actual)
        passes = not failures(metrics.norm(vector), figures)
        return cls(passes, figures.max_abs_error, figures.cosine)


def most_error(errors: Sequence[float]) -> float:
    """The bound on a fault's error, given the errors without a fault; infinite if these are not numbers."""
    return _BETTER * max(errors) if np.isfinite(errors).all() else float("inf")


def best(
    faults: Mapping[str, Callable[[Evidence], Fit]], evidence: Sequence[Evidence], most: float = float("inf")
) -> Finding | None:
    """The fault that passes on all evidence with the least error, which must be below `most`; else None."""
    fitting: dict[str, tuple[float, float]] = {}
    for name, fit_of in faults.items():
        fits = []
        for e in evidence:
            fits.append(fit_of(e))
            if not fits[-1].passes:
                break
        else:
            fitting[name] = (max(f.error for f in fits), min(f.cosine for f in fits))
    least = min((error for error, _ in fitting.values()), default=most)
    names = [n for n, (error, _) in fitting.items() if error <= _TIE * least]
    if not least < most or len(names) > _MOST_NAMES:
        return None
    return finding(" or ".join(names), evidence, min(fitting[n][1] for n in names))


def finding(
    name: str, evidence: Sequence[Evidence], to_fault: float | None, detail: str | None = None
) -> Finding:
    """A finding with its evidence in words."""
    to_reference = min(Figures.of(e.expected, e.actual).cosine for e in evidence)
    shapes = sorted({e.actual.shape for e in evidence if e.actual.shape != e.expected.shape})
    words = f"cosine to the reference {to_reference:.6f}"
    if shapes:
        words = f"vectors of {shapes[0][-1]} components instead of {evidence[0].expected.shape[-1]}"
    elif not np.isfinite(to_reference):
        words = "vectors with NaN or infinity"
    if to_fault is not None:
        words += f", to the reference with this fault {to_fault:.6f}"
    return Finding(name, f"{words}; {detail}" if detail else words, to_reference, to_fault)
