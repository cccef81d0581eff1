"""Weight audit: reads a written graph back and compares every stored tensor with the checkpoint.

Parity cannot show everything (a uniform scale on a projection cancels in the norm that follows); this can.
It knows the layout that `onnx_ops` promises and reads the file on its own, without the code that wrote it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from embedding_export.checkpoint import Checkpoint, DenseStage
from embedding_export.errors import AuditError

# Rows of a large tensor compared at a time.
ROWS = 8192
# Largest relative error of a folded Dense product: one rounding to float32, summed over at most 3,072 terms.
FOLD_TOLERANCE = 1e-5
# Vectors that a folded matrix and the stages it stands for must map alike.
PROBES = 8


def audit_onnx(path: Path, checkpoint: Checkpoint) -> int:
    """Compare the graph at `path` with its checkpoint and return how many tensors were compared.

    Raises:
        AuditError: a tensor is missing, left over, or differs from the checkpoint's; the first ones are
        named.
    """
    stored = _stored(path)
    faults: list[str] = []
    names = [n for n in checkpoint.tensors if not n.startswith("dense.")]
    for name in names:
        if name not in stored:
            faults.append(f"{name} is missing")
        elif fault := _difference(stored.pop(name), checkpoint, name):
            faults.append(f"{name} {fault}")
        checkpoint.tensors[name].release()
    faults += _dense_faults(stored, checkpoint)
    known = {*names, *(n for n in stored if n.startswith("dense."))}
    faults += [f"{n} stands for no tensor of the checkpoint" for n in stored if n not in known]
    if faults:
        raise AuditError(
            f"{path.name} does not hold the checkpoint's weights: {'; '.join(faults[:3])}"
            + (f"; and {len(faults) - 3} more" if len(faults) > 3 else "")
            + ". The graph was refused; please report this with the checkpoint's name."
        )
    return len(names) + len(checkpoint.dense)


def _stored(path: Path) -> dict[str, NDArray[Any]]:
    """Every initializer but the constants; large ones are memory-mapped."""
    model = onnx.load(str(path), load_external_data=False)
    tensors = (t for t in model.graph.initializer if not t.name.startswith("constant_"))
    return {t.name: _array(t, path.parent) for t in tensors}


def _array(tensor: TensorProto, folder: Path) -> NDArray[Any]:
    if tensor.data_location != TensorProto.EXTERNAL:
        return numpy_helper.to_array(tensor)
    where = {entry.key: entry.value for entry in tensor.external_data}
    return np.memmap(
        folder / where["location"],
        dtype=helper.tensor_dtype_to_np_dtype(tensor.data_type),
        mode="r",
        offset=int(where["offset"]),
        shape=tuple(tensor.dims),
    )


def _difference(stored: NDArray[Any], checkpoint: Checkpoint, name: str) -> str | None:
    expected_shape = checkpoint.tensors[name].shape
    shape = stored.shape[::-1] if name.endswith("_proj.weight") else stored.shape
    if shape != expected_shape:
        return f"has shape {shape}, expected {expected_shape}"
    # np.max, unlike max, lets a NaN through to the comparison below, which it fails.
    worst = np.max([np.abs(got - want).max() for got, want in _pairs(stored, checkpoint, name)])
    return None if worst == 0.0 else f"differs by up to {worst:.3g}"


def _pairs(
    stored: NDArray[Any], checkpoint: Checkpoint, name: str
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Stored values and what they must equal, block by block."""
    tensor = checkpoint.tensors[name]
    if name.endswith("norm.weight"):
        scale = checkpoint.config.attention_scale if name.endswith("q_norm.weight") else 1.0
        yield stored, (1.0 + tensor.array()) * np.float32(scale)
    elif name.endswith("_proj.weight"):
        yield stored.T, tensor.array()
    else:
        for start in range(0, tensor.shape[0], ROWS):
            stop = min(start + ROWS, tensor.shape[0])
            yield stored[start:stop], tensor.rows(start, stop)


def _dense_faults(stored: dict[str, NDArray[Any]], checkpoint: Checkpoint) -> list[str]:
    """The Dense stages as stored (neighbours folded) against the checkpoint's own, on random vectors."""
    if not checkpoint.dense:
        return []
    x = np.random.default_rng(0).standard_normal((PROBES, checkpoint.dense[0].in_features))
    want, got, j = x, x, 0
    for i, stage in enumerate(checkpoint.dense):
        want = _apply(want, stage, checkpoint.tensors[stage.weight].array(), _bias(checkpoint, stage))
        if stage.activation == "identity" and i + 1 < len(checkpoint.dense):
            continue
        weight = stored.get(f"dense.{j}.weight")
        if weight is None or weight.shape[0] != got.shape[1]:
            found = "missing" if weight is None else f"of shape {weight.shape}"
            return [f"dense.{j}.weight is {found}"]
        got = _apply(got, stage, weight.T, stored.get(f"dense.{j}.bias"))
        j += 1
    error = float(np.abs(got - want).max() / np.abs(want).max()) if got.shape == want.shape else np.inf
    return [] if error <= FOLD_TOLERANCE else [f"the Dense stages differ by {error:.3g} (relative)"]


def _bias(checkpoint: Checkpoint, stage: DenseStage) -> NDArray[np.float32] | None:
    return None if stage.bias is None else checkpoint.tensors[stage.bias].array()


def _apply(
    x: NDArray[Any], stage: DenseStage, weight: NDArray[Any], bias: NDArray[Any] | None
) -> NDArray[Any]:
    y = x @ weight.T.astype(np.float64) + (0.0 if bias is None else bias)
    return np.tanh(y) if stage.activation == "tanh" else y
