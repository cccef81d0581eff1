"""The bounds that each precision must keep against the reference, as data."""

from dataclasses import asdict, dataclass, replace

from embedding_runtime.errors import InputError
from embedding_validate.measures.metrics import Figures


@dataclass(frozen=True)
class Threshold:
    """Bounds against the reference's vectors (float32): for each vector, and for the mean over all of them.

    `max_abs_error` (None: only the cosine counts) and `norm_error` (| ‖v‖ − ‖r‖ |) are for vectors of norm 1;
    if a checkpoint does not normalise, both scale with max(1, ‖r‖). `batch_error` bounds the absolute
    difference between a text's vectors alone and in a batch, in another bucket, in another run or on another
    number of threads. `update_error` bounds the relative error of what a part of a layer adds, given the
    graph's residual before it and the graph's rounding.
    """

    cosine_min: float
    cosine_mean: float
    norm_error: float
    max_abs_error: float | None = None
    batch_error: float = 1e-5
    update_error: float | None = None

    def failures(self, reference_norm: float, figures: Figures) -> list[str]:
        """The bounds that the figures miss, in words; NaN misses all of them."""
        scale = max(1.0, reference_norm)
        failures = [] if figures.finite else ["the vector holds NaN or infinity, or has another shape"]
        if not figures.cosine >= self.cosine_min:
            failures.append(f"cosine {figures.cosine:.7f} is below {self.cosine_min}")
        for name, value, most in (
            ("max abs error", figures.max_abs_error, self.max_abs_error and self.max_abs_error * scale),
            ("norm error", figures.norm_error, self.norm_error * scale),
        ):
            if most is not None and not value <= most:
                failures.append(f"{name} {value:.2g} is above {most:.2g}")
        return failures

    def as_dict(self) -> dict[str, float]:
        """The bounds by name, for manifests and reports; those that do not apply are left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}


FLOORS = ("trained weights", "random weights")
"""The two sets of bounds of loss: for all checkpoints but those that say that their weights are random."""

# Loss: against the reference with the checkpoint's own weights.
# fp32 differs from the reference by summation order alone: 3e-7 is usual, one wrong key far above 1e-5.
LOSS: dict[str, Threshold] = {
    "fp32": Threshold(cosine_min=0.999999, cosine_mean=0.999999, norm_error=1e-5, max_abs_error=1e-5),
    # Weights rounded to 11 bits. Norms are looser too: slices of a vector are not normalised.
    "fp16": Threshold(cosine_min=0.99999, cosine_mean=0.999995, norm_error=2e-3, max_abs_error=2e-3),
    # Measured on google/embeddinggemma-300m over the gate's texts, nonsense among them (LOSS_MEASURED in
    # test_thresholds): floors allow some 1.5 to 3 times the loss of the format that loses more.
    "int8": Threshold(cosine_min=0.985, cosine_mean=0.998, norm_error=0.1, batch_error=2e-3),
    "int8_q4": Threshold(cosine_min=0.92, cosine_mean=0.992, norm_error=0.1, batch_error=2e-3),
    "mixed": Threshold(cosine_min=0.78, cosine_mean=0.975, norm_error=0.3, batch_error=2e-3),
    "int4": Threshold(cosine_min=0.85, cosine_mean=0.97, norm_error=0.3, batch_error=2e-3),
}
# Random weights exaggerate what rounding costs, above all to 4 bits, and have no meaning that could be lost:
# only nonsense is refused. For stand-ins alone, whose config.json says "random_weights": true.
RANDOM_LOSS: dict[str, Threshold] = {
    **LOSS,
    "int8": Threshold(cosine_min=0.95, cosine_mean=0.99, norm_error=0.1, batch_error=2e-3),
    "int8_q4": Threshold(cosine_min=0.5, cosine_mean=0.7, norm_error=0.5, batch_error=2e-3),
    "mixed": Threshold(cosine_min=0.3, cosine_mean=0.6, norm_error=0.6, batch_error=2e-3),
    "int4": Threshold(cosine_min=0.3, cosine_mean=0.6, norm_error=0.6, batch_error=2e-3),
}
# Execution: against the same forward pass on the graph's own dequantized weights. fp32 holds the checkpoint's
# weights: loss is execution. Where a graph rounds activations that pass does too, and each half of a layer
# starts from the graph's own residual: 2e-7 is usual, 6e-3 was seen where values of a text of three tokens
# fell to the neighbouring step.
_ROUNDED = Threshold(
    cosine_min=0.99999, cosine_mean=0.99999, norm_error=1e-5, max_abs_error=1e-3, update_error=2e-2
)
EXECUTION: dict[str, Threshold] = {
    "fp16": Threshold(cosine_min=0.999999, cosine_mean=0.999999, norm_error=1e-5, max_abs_error=1e-5),
    "int8": _ROUNDED,
    "int8_q4": _ROUNDED,
    # The Dense stages' input is a single row, 4-bit products round it in blocks of 32, and a checkpoint that
    # whitens in its last Dense makes more of a neighbouring step: 0.9999876 was seen with a trained one. The
    # least cosine is that of an update's bound, 1 - 0.02² / 2.
    "int4": replace(_ROUNDED, cosine_min=0.9998),
}
# LiteRT shows its vectors alone, and rounds the inputs of its products: what it gives is held against a
# forward pass that rounds them so from the first layer to the last. Values that fall to the neighbouring step
# lead the two apart, the more the fewer tokens there are. Seen with random ids in int8, mixed and int4: least
# 0.99957 and mean 0.99998 over ten stand-ins of tiny size (35 texts of 3 to 128 tokens), 0.99792 and 0.99921
# at full size (13 texts of 3 to 64 tokens).
_UNSEEN = Threshold(cosine_min=0.995, cosine_mean=0.998, norm_error=1e-4)
LITERT_EXECUTION: dict[str, Threshold] = dict.fromkeys(("int8", "int8_q4", "mixed", "int4"), _UNSEEN)


def threshold(precision: str, random_weights: bool = False) -> Threshold:
    """The bounds of a precision against the reference.

    Raises:
        InputError: this version has none for it.
    """
    thresholds = RANDOM_LOSS if random_weights else LOSS
    try:
        return thresholds[precision]
    except KeyError:
        raise InputError(
            f"No parity thresholds for precision {precision!r}; there are some for {sorted(thresholds)}. "
            "Validate with the version of embedding-edge that wrote the bundle."
        ) from None


def execution_threshold(format: str, precision: str) -> Threshold:
    """The bounds of a graph against its own weights; those of its loss if they are the checkpoint's.

    Raises:
        InputError: this version has none for the precision.
    """
    thresholds = EXECUTION if format == "onnx" else LITERT_EXECUTION
    return thresholds.get(precision) or threshold(precision)


def states_threshold(precision: str) -> Threshold:
    """The bounds of the last hidden states of one text; all its tokens are taken as one vector of norm 1.

    If activations are rounded, each token has errors that the mean over tokens cancels. The execution check
    covers those graphs; here only nonsense is refused.

    Raises:
        InputError: this version has none for the precision.
    """
    bounds = threshold(precision)
    return bounds if bounds.max_abs_error is not None else RANDOM_LOSS["int4"]


def bounds(precision: str, format: str = "onnx", random_weights: bool = False) -> dict[str, float]:
    """Every bound of a precision by name, for manifests and reports; names of execution bounds begin with
    "execution"."""
    limits, loss = execution_threshold(format, precision), threshold(precision, random_weights)
    execution = {} if limits is threshold(precision) else limits.as_dict()
    named = {f"execution_{k}": v for k, v in execution.items() if k != "batch_error"}
    return {**loss.as_dict(), **named}


def floors(random_weights: bool) -> str:
    """Which of `FLOORS` a checkpoint is held to."""
    return FLOORS[random_weights]
