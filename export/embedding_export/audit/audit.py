"""Weight audit: checks that every tensor of a written graph matches the checkpoint's, within an error bound.

Parity cannot show every fault: a uniform scale on a projection cancels in the norm that follows. This audit
can. It reads the file without the code that wrote it, and defines each format's error bound itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_export.architectures.interface.ops import DenseStage
from embedding_export.architectures.interface.tensors import TABLE, norm_takers
from embedding_export.architectures.registry import tensor_specs
from embedding_export.audit.dequantized import read_graph
from embedding_export.audit.read_eight_bits import (
    moved_as_stored,
    read_head_factors,
    read_norm_factors,
    wrong_input_factors,
)
from embedding_export.checkpoint.checkpoint import Checkpoint
from embedding_export.errors import AuditError
from embedding_export.files.tensors import Tensor
from embedding_export.weights.folding import Weight, Weights, as_stored, folded
from embedding_export.weights.stored import Grid, StoredWeight

# Rows of a tensor compared at a time.
ROWS = 4096
# A stored value is the nearest one that its grid has: half a step, and a little for float32 arithmetic (for
# int8 codes of 127 a rounding error of the scale counts 127-fold; Q4_0 rounds its scales after the codes).
# Weights of a matrix make good each other's errors (`compensation`): in 8 bits by up to three steps more, and
# their scales are known the more exactly; in 4 bits by two, in an ONNX table's by one, and each row is held
# as a whole besides.
NEAREST = {
    "float32": 0.0,
    "float16": 0.5,
    "int8": 0.5 + 1e-4,
    "compensated_int8": 3.5 + 1e-3,
    "int4": 1.5 + 1e-3,
    "int4_symmetric": 0.5 + 1e-4,
    "compensated_int4": 2.5 + 1e-3,
    "compensated_int4_symmetric": 2.5 + 1e-3,
    "q4_0": 0.5 + 0.01,
}
# What lies beyond its grid's ends is stored as the end, and may lie this many steps beyond: an int4 grid
# covers at least the middle three quarters of its block, and Q4_0's has no +8.
CLIPPED = {
    "float32": 0.0,
    "float16": 0.0,
    "int8": 0.5 + 1e-4,
    "compensated_int8": 0.5 + 1e-3,
    "int4": 3.5,
    "int4_symmetric": 3.5,
    "compensated_int4": 6.0,
    "compensated_int4_symmetric": 6.0,
    "q4_0": 1.01,
}
# float16 scales below 2^-14 are multiples of 2^-24, so that eight steps are uncertain by this.
SMALLEST_ERROR = {"q4_0": 2.0**-21}
# Of a row whose errors are made good in 4 bits, and of the mean row: the root mean square of its errors in
# steps, and how far the factor by which it fits the checkpoint's may be from 1.
ROW_ERROR, ROW_FACTOR = 2.0, 0.15
MEAN_ERROR, MEAN_FACTOR = 0.6, 0.05
# How far an int8 scale may be from a row's largest magnitude over 127, relatively, and for rows of zeros.
SCALE_TOLERANCE, SMALLEST_SCALE = 1e-5, 2e-30
# Largest relative error of a folded Dense product: one rounding to float32, summed over at most 3,072 terms.
FOLD_TOLERANCE = 1e-5
# Vectors that a folded matrix and the stages it stands for must map alike.
PROBES = 8

Rows = Callable[[int, int], NDArray[np.float32]]
"""Gives the rows from a start to a stop."""


@dataclass(frozen=True)
class Difference:
    """A tensor that differs from the checkpoint's; `words` says how.

    `stored` is the tensor in the file and `expected` gives the rows that it should hold; both are None where
    nothing can be compared. `nearest` is how many steps of its grid a sound value may be off.
    """

    name: str
    words: str
    stored: StoredWeight | None = None
    expected: Rows | None = None
    nearest: float = 0.5


def audit_graph(path: Path, checkpoint: Checkpoint) -> int:
    """Compare the graph at `path` with its checkpoint and return how many tensors were compared.

    Raises:
        AuditError: a tensor is missing, left over, or differs from the checkpoint's by more than its format
        allows; the first ones are named.
    """
    compared, faults = differences(path, checkpoint)
    if faults:
        raise AuditError(
            f"{path.name} does not hold the checkpoint's weights: {in_words(faults)}. The graph was refused; "
            "please report this with the checkpoint's name."
        )
    return compared


def in_words(faults: Sequence[Difference]) -> str:
    """The first three differences as text."""
    named = "; ".join(f"{d.name} {d.words}" for d in faults[:3])
    return named + (f"; and {len(faults) - 3} more" if len(faults) > 3 else "")


def differences(path: Path, checkpoint: Checkpoint) -> tuple[int, list[Difference]]:
    """The number of tensors compared, and those that differ by more than their format allows.

    Raises:
        AuditError: a LiteRT file whose signatures differ in their weights.
    """
    stored = read_graph(path)
    unfolded = all(stage.weight in stored for stage in checkpoint.dense)
    weights = as_stored(checkpoint) if unfolded else folded(checkpoint)
    faults = [] if unfolded else _fold_faults(weights, checkpoint)
    tensors = dict(weights.tensors)
    tensors |= moved_as_stored(stored, weights.tensors, tensor_specs(checkpoint.config))
    for name, tensor in tensors.items():
        if name not in stored:
            faults.append(Difference(name, "is missing"))
        elif difference := _difference(name, stored, tensor, checkpoint):
            faults.append(difference)
    specs = tensor_specs(checkpoint.config)
    evened = {f"{n}:inputs": n for n, spec in specs.items() if spec.unnormed and f"{n}:inputs" in stored}
    for name, matrix in evened.items():
        if words := wrong_input_factors(stored, matrix, specs[matrix].shape[1]):
            faults.append(Difference(name, words))
    left = [n for n in stored if n not in weights.tensors and n not in evened]
    return len(weights.tensors), faults + [
        Difference(n, "stands for no tensor of the checkpoint") for n in left
    ]


def _difference(
    name: str, graph: Mapping[str, StoredWeight], tensor: Weight, checkpoint: Checkpoint
) -> Difference | None:
    stored = graph[name]
    if stored.shape != tensor.shape:
        return Difference(name, f"has shape {stored.shape}, expected {tensor.shape}")
    kind = _kind(name, stored, checkpoint)
    if kind not in NEAREST:
        return Difference(name, f"is stored as {kind}, which has no error bound")

    def expected(start: int, stop: int) -> NDArray[np.float32]:
        want, spec = tensor.rows(start, stop), tensor_specs(checkpoint.config).get(name)
        return _gain(name, want, graph, checkpoint) if spec and spec.role == "gain" else want

    worst = [0.0, 0.0]
    for start in range(0, stored.shape[0], ROWS):
        stop = min(start + ROWS, stored.shape[0])
        if (excess := _excess(stored.grid(start, stop), expected(start, stop), kind)) is not None:
            worst = np.maximum(worst, excess).tolist()
        stored.release()
        if isinstance(tensor, Tensor):
            tensor.release()
    if worst == [0.0, 0.0]:
        return None
    return Difference(name, _words(worst[0], worst[1]), stored, expected, NEAREST[kind])


def _kind(name: str, stored: StoredWeight, checkpoint: Checkpoint) -> str:
    if stored.kind == "int4" and checkpoint.source.qat == "q4_0":
        return "q4_0"
    rounded = stored.kind in ("int8", "int4", "int4_symmetric") and name != TABLE
    return f"compensated_{stored.kind}" if rounded else stored.kind


def _gain(
    name: str, read: NDArray[np.float32], graph: Mapping[str, StoredWeight], checkpoint: Checkpoint
) -> NDArray[np.float32]:
    """The gain that a norm should have, given the factors that were moved to the takers of its channels."""
    specs = tensor_specs(checkpoint.config)
    gain = read * np.float32(specs[name].scale)
    if any(graph[taker].eight_bits for taker in norm_takers(specs).get(name, ()) if taker in graph):
        return gain / read_norm_factors(graph, name, gain)
    queries = next((q for q, spec in specs.items() if spec.keys and name in (q, spec.keys)), None)
    if queries is None:
        return gain
    q_gain = checkpoint.tensors[queries].array() * np.float32(specs[queries].scale)
    factors = read_head_factors(graph, queries, q_gain)
    return gain / factors if name == queries else gain * factors


def _excess(grid: Grid, want: NDArray[Any], kind: str) -> tuple[float, float] | None:
    """The largest error and its size in steps, if a value is off by more than its format allows."""
    inside = np.clip(want, grid.low, grid.high)
    smallest = SMALLEST_ERROR.get(kind, 0.0)
    near = np.abs(grid.values - inside) <= NEAREST[kind] * grid.step + smallest
    if kind == "compensated_int8":  # the scale is no matter of compensation
        scale = np.abs(want).max(axis=1, keepdims=True) / np.float32(127)
        near &= np.abs(grid.step - scale) <= scale * SCALE_TOLERANCE + SMALLEST_SCALE
    if "int4" in kind and kind != "int4_symmetric":
        near &= _fits(grid, want)
    unclipped = np.abs(want - inside) <= CLIPPED[kind] * grid.step + smallest
    if (sound := near & unclipped).all():  # NaN fails both
        return None
    errors = np.abs(grid.values - want)
    steps = np.divide(errors, grid.step, out=np.zeros_like(errors), where=grid.step > 0)
    return float(errors[~sound].max()), float(steps[~sound].max())


def _fits(grid: Grid, want: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether each row as a whole matches the checkpoint's, apart from single errors: [rows, 1]."""
    steps = np.divide(grid.values - want, grid.step)
    errors = np.sqrt(np.square(steps).mean(axis=1, keepdims=True))
    energy = np.square(want).sum(axis=1, keepdims=True)
    excess = ((grid.values - want) * want).sum(axis=1, keepdims=True)
    chance = 2 * np.sqrt(np.square(grid.step * want).sum(axis=1, keepdims=True))  # what single errors may add
    rows = (errors <= ROW_ERROR) & (np.abs(excess) <= ROW_FACTOR * energy + chance)
    return np.asarray(
        rows & (errors.mean() <= MEAN_ERROR) & (np.abs(excess.sum()) <= MEAN_FACTOR * energy.sum())
    )


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
