"""Weight audit: every tensor of a written graph is the checkpoint's, within its format's error bound.

Parity cannot show everything (a uniform scale on a projection cancels in the norm that follows); this can.
The file is read without the code that wrote it; what the bound of a format is, is said here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_export.checkpoint import Checkpoint
from embedding_export.dequantized import read_graph
from embedding_export.errors import AuditError
from embedding_export.folding import Weight, Weights, as_stored, folded
from embedding_export.ops import DenseStage
from embedding_export.read_balance import balanced_as_stored, read_norm_factors
from embedding_export.stored import TABLE, Grid, StoredWeight, norm_scale
from embedding_export.tensors import Tensor

# Rows of a tensor compared at a time.
ROWS = 4096
# A stored value is the nearest one that its grid has: half a step, and a little for float32 arithmetic (for
# int8 codes of 127 a rounding error of the scale counts 127-fold; Q4_0 rounds its scales after the codes).
NEAREST = {
    "float32": 0.0,
    "float16": 0.5,
    "int8": 0.5 + 1e-4,
    "int4": 0.5 + 1e-4,
    "int4_symmetric": 0.5 + 1e-4,
    "q4_0": 0.5 + 0.01,
}
# What lies beyond its grid's ends is stored as the end, and may lie so many steps beyond: an int4 grid covers
# at least the middle three quarters of its block, and Q4_0's has no +8.
CLIPPED = {
    "float32": 0.0,
    "float16": 0.0,
    "int8": 0.5 + 1e-4,
    "int4": 3.5,
    "int4_symmetric": 3.5,
    "q4_0": 1.01,
}
# float16 scales below 2^-14 are multiples of 2^-24, so that eight steps are uncertain by this.
SMALLEST_ERROR = {"q4_0": 2.0**-21}
# Largest relative error of a folded Dense product: one rounding to float32, summed over at most 3,072 terms.
FOLD_TOLERANCE = 1e-5
# Norms whose channels an int8 graph may balance against the matrices that take them.
BALANCED = (".input_layernorm.weight", ".pre_feedforward_layernorm.weight")
# Vectors that a folded matrix and the stages it stands for must map alike.
PROBES = 8

Rows = Callable[[int, int], NDArray[np.float32]]
"""Gives the rows from a start to a stop."""


@dataclass(frozen=True)
class Difference:
    """A tensor that is not the checkpoint's: what is wrong, in words.

    `stored` is what the file holds and `wanted` gives the rows it should hold, where the two can be compared.
    """

    name: str
    words: str
    stored: StoredWeight | None = None
    wanted: Rows | None = None


def audit_graph(path: Path, checkpoint: Checkpoint) -> int:
    """Compare the graph at `path` with its checkpoint and return how many tensors were compared.

    Raises:
        AuditError: a tensor is missing, left over, or differs from the checkpoint's by more than its format
        allows; the first ones are named.
    """
    compared, found = differences(path, checkpoint)
    if found:
        raise AuditError(
            f"{path.name} does not hold the checkpoint's weights: {in_words(found)}. The graph was refused; "
            "please report this with the checkpoint's name."
        )
    return compared


def in_words(found: Sequence[Difference]) -> str:
    """The first three differences."""
    named = "; ".join(f"{d.name} {d.words}" for d in found[:3])
    return named + (f"; and {len(found) - 3} more" if len(found) > 3 else "")


def differences(path: Path, checkpoint: Checkpoint) -> tuple[int, list[Difference]]:
    """How many tensors were compared, and those that differ by more than their format allows.

    Raises:
        AuditError: a LiteRT file whose signatures differ in their weights.
    """
    stored = read_graph(path)
    unfolded = all(stage.weight in stored for stage in checkpoint.dense)
    weights = as_stored(checkpoint) if unfolded else folded(checkpoint)
    found = [] if unfolded else _fold_faults(weights, checkpoint)
    tensors = dict(weights.tensors)
    balanced = TABLE in stored and stored[TABLE].kind == "int8"
    if balanced:
        tensors |= balanced_as_stored(stored, checkpoint.config, weights.tensors)
    for name, tensor in tensors.items():
        if name not in stored:
            found.append(Difference(name, "is missing"))
        elif difference := _difference(name, stored[name], tensor, checkpoint, balanced):
            found.append(difference)
    left = [n for n in stored if n not in weights.tensors]
    return len(weights.tensors), found + [
        Difference(n, "stands for no tensor of the checkpoint") for n in left
    ]


def _difference(
    name: str, stored: StoredWeight, tensor: Weight, checkpoint: Checkpoint, balanced: bool
) -> Difference | None:
    if stored.shape != tensor.shape:
        return Difference(name, f"has shape {stored.shape}, expected {tensor.shape}")
    q4_0 = stored.kind == "int4" and checkpoint.source.qat == "q4_0"
    kind = "q4_0" if q4_0 else stored.kind
    if kind not in NEAREST:
        return Difference(name, f"is stored as {kind}, which has no error bound")

    def wanted(start: int, stop: int) -> NDArray[np.float32]:
        want = tensor.rows(start, stop)
        if name.endswith("norm.weight"):
            want = (1.0 + want) * np.float32(norm_scale(name, checkpoint))
        if balanced and name.endswith(BALANCED):
            want = want / read_norm_factors({name: stored}, name, want)
        return want

    worst = [0.0, 0.0]
    for start in range(0, stored.shape[0], ROWS):
        stop = min(start + ROWS, stored.shape[0])
        if (found := _excess(stored.grid(start, stop), wanted(start, stop), kind)) is not None:
            worst = np.maximum(worst, found).tolist()
        stored.release()
        if isinstance(tensor, Tensor):
            tensor.release()
    return None if worst == [0.0, 0.0] else Difference(name, _words(worst[0], worst[1]), stored, wanted)


def _excess(grid: Grid, want: NDArray[Any], kind: str) -> tuple[float, float] | None:
    """Largest error and the steps it amounts to, where a value errs by more than its format allows."""
    inside = np.clip(want, grid.low, grid.high)
    smallest = SMALLEST_ERROR.get(kind, 0.0)
    near = np.abs(grid.values - inside) <= NEAREST[kind] * grid.step + smallest
    kept = np.abs(want - inside) <= CLIPPED[kind] * grid.step + smallest
    if (sound := near & kept).all():  # NaN fails both
        return None
    errors = np.abs(grid.values - want)
    steps = np.divide(errors, grid.step, out=np.zeros_like(errors), where=grid.step > 0)
    return float(errors[~sound].max()), float(steps[~sound].max())


def _words(error: float, steps: float) -> str:
    return f"differs by up to {error:.3g}" + (f" ({steps:.3g} steps of its scale)" if steps else "")


def _fold_faults(weights: Weights, checkpoint: Checkpoint) -> list[Difference]:
    """The folded Dense stages against the checkpoint's own, on random vectors."""
    if not checkpoint.dense:
        return []
    x = np.random.default_rng(0).standard_normal((PROBES, checkpoint.dense[0].in_features))
    want, got = x, x
    for stage in checkpoint.dense:
        want = _apply(want, stage, as_stored(checkpoint))
    for stage in weights.dense:
        got = _apply(got, stage, weights)
    error = float(np.abs(got - want).max() / np.abs(want).max()) if got.shape == want.shape else np.inf
    if error <= FOLD_TOLERANCE:
        return []
    return [Difference("the folded Dense stages", f"differ by {error:.3g} (relative)")]


def _apply(x: NDArray[Any], stage: DenseStage, weights: Weights) -> NDArray[Any]:
    y = x @ weights.tensors[stage.weight].array().T.astype(np.float64)
    if stage.bias is not None:
        y = y + weights.tensors[stage.bias].array()
    return np.tanh(y) if stage.activation == "tanh" else y
