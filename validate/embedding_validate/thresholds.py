"""What each precision must hold against the reference, as data. Knows nothing of how it is measured."""

from dataclasses import asdict, dataclass

from embedding_runtime.errors import InputError
from embedding_validate.metrics import Figures


@dataclass(frozen=True)
class Threshold:
    """Bounds for one vector against the reference's (float32).

    `max_abs_error` and `norm_error` (| ‖v‖ − ‖r‖ |) are for vectors of norm 1; where a checkpoint does not
    normalise, both scale with max(1, ‖r‖).
    """

    max_abs_error: float
    cosine_min: float
    norm_error: float

    def failures(self, reference_norm: float, figures: Figures) -> list[str]:
        """What falls short, in words; NaN falls short of everything."""
        scale = max(1.0, reference_norm)
        found = [] if figures.finite else ["the vector holds NaN or infinity, or has another shape"]
        if not figures.cosine >= self.cosine_min:
            found.append(f"cosine {figures.cosine:.7f} is below {self.cosine_min}")
        for name, value, most in (
            ("max abs error", figures.max_abs_error, self.max_abs_error * scale),
            ("norm error", figures.norm_error, self.norm_error * scale),
        ):
            if not value <= most:
                found.append(f"{name} {value:.2g} is above {most:.2g}")
        return found

    def as_dict(self) -> dict[str, float]:
        """The bounds by name, for manifests and reports."""
        return asdict(self)


# fp32 differs from the reference by summation order alone: 3e-7 is usual, one wrong key far above 1e-5.
THRESHOLDS: dict[str, Threshold] = {
    "fp32": Threshold(max_abs_error=1e-5, cosine_min=0.999999, norm_error=1e-5),
}


def threshold(precision: str) -> Threshold:
    """The bounds of a precision.

    Raises:
        InputError: this version has none for it.
    """
    try:
        return THRESHOLDS[precision]
    except KeyError:
        raise InputError(
            f"No parity thresholds for precision {precision!r}; there are some for {sorted(THRESHOLDS)}. "
            "Validate with the version of embedding-edge that wrote the bundle."
        ) from None
