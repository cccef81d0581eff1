"""Does a quantized graph compute what its own weights and its own rounding give: faults no weight shows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import written
from onnx import numpy_helper

from embedding_export.audit.audit import audit_graph
from embedding_export.audit.dequantized import dequantized
from embedding_export.checkpoint.checkpoint import Checkpoint, load_checkpoint
from embedding_export.onnx.graph import OnnxGraph
from embedding_export.onnx.int4 import Int4
from embedding_export.onnx.int8 import Int8, Int8Ops, Scaled
from embedding_export.onnx.scores import Int8Scores
from embedding_export.weights import quantize
from embedding_runtime.bundle import Precision
from embedding_runtime.engines.onnx_files import four_bits
from embedding_runtime.engines.onnx_files.tables import tensor_name
from embedding_validate.forward import rounded_ops
from embedding_validate.forward.rounded_ops import ROUNDINGS
from embedding_validate.measures.thresholds import EXECUTION
from embedding_validate.parity.execution import Executed, ExecutionError, Halves

Patch = pytest.MonkeyPatch
LENGTHS = [3, 20, 100, 600]
BOUND = EXECUTION["int8"].update_error or 0.0


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(tiny_checkpoint)


def _executed(checkpoint: Checkpoint, path: Path, precision: Precision) -> list[Executed]:
    texts = {str(len(t)): t.tolist() for t in written.texts(checkpoint, LENGTHS)}
    halves = Halves(checkpoint, dequantized(path, checkpoint), path)
    rounding = halves.rounding(next(iter(texts.values())), precision)
    return [halves.executed(halves.sound, ids, rounding) for ids in texts.values()]


@pytest.mark.parametrize("precision", ROUNDINGS)
def test_a_sound_graph(checkpoint: Checkpoint, precision: Precision, tmp_path: Path) -> None:
    """The same to float32's last digits, but for a value here and there on the neighbouring step."""
    path = written.write(checkpoint, tmp_path, precision)
    found = _executed(checkpoint, path, precision)
    errors = [e.update_error for e in found]
    assert max(errors) < BOUND / 2
    assert min(errors) < 1e-5
    for text, right in zip(written.texts(checkpoint, LENGTHS), found, strict=True):
        np.testing.assert_allclose(written.run(path, [text])[0], right.vector, atol=1e-5)


def _no_zero_point(patch: Patch) -> None:
    true = Int8.product

    def product(self: Any, codes: str, weight: str) -> str:
        out = true(self, codes, weight)
        if "layers.1.mlp.down_proj" in weight:
            self._g._nodes[-1].input[4] = ""
        return out

    patch.setattr(Int8, "product", product)


def _other_score_scale(patch: Patch) -> None:
    """The product's scale of queries is 5 % smaller than the one they were quantized with."""
    true = Int8Scores.product

    def product(self: Any, codes: Any, q: str, k: str) -> str:
        out = true(self, codes, q, k)
        node = self._g._nodes[-1]
        scale = numpy_helper.to_array(self._g._initializers[node.input[2]])
        node.input[2] = self._g.constant(scale * np.float32(0.95))
        return out

    patch.setattr(Int8Scores, "product", product)


def _lost_gate_scale(patch: Patch) -> None:
    def gelu_gate(self: Int8Ops, gate: Scaled, up: Scaled) -> Scaled:
        return Scaled(self._float.gelu_gate(gate.name, up.name), up.scales)

    patch.setattr(Int8Ops, "gelu_gate", gelu_gate)


def _coarser_activations(patch: Patch) -> None:
    """Seven bits instead of eight: within every bound on loss."""
    true = Int8.quantize

    def seven_bits(self: Any, x: str, width: int) -> tuple[str, str]:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(quantize, "INT8_MAX", 63)
            return true(self, x, width)

    patch.setattr(Int8, "quantize", seven_bits)


def _nibbles_exchanged(patch: Patch) -> None:
    """Not in the file, but where the graph unpacks the table's rows."""
    true = Int4._unpacked

    def unpacked(self: Any, name: str, ids: str) -> str:
        out = true(self, name, ids)
        joined = self._g._nodes[-2]
        joined.input[:] = list(joined.input)[::-1]
        return out

    patch.setattr(Int4, "_unpacked", unpacked)


def _no_zero_points_taken(patch: Patch) -> None:
    """They are in the file, and the runtime makes 8-bit codes of a matrix without them."""
    true = four_bits._values

    def values(tensor: bytes, folder: Path) -> Any:
        found = true(tensor, folder)
        return found & 0 if tensor_name(tensor) == "layers.1.mlp.gate_proj.weight:zero" else found

    patch.setattr(four_bits, "_values", values)


def _another_norm(patch: Patch) -> None:
    """One norm's epsilon a thousand times as large: nearly nothing changes."""
    true = OnnxGraph.node

    def node(self: Any, op: str, *inputs: str, **attributes: Any) -> str:
        if attributes.get("out") == "layers.2.post_attention_layernorm":
            attributes["epsilon"] = 1e-1
        return true(self, op, *inputs, **attributes)

    patch.setattr(OnnxGraph, "node", node)


FAULTS: dict[str, tuple[Precision, Callable[[Patch], None]]] = {
    "int8: a missing zero-point correction": ("int8", _no_zero_point),
    "int8: queries scaled back by something else": ("int8", _other_score_scale),
    "int4: queries scaled back by something else": ("int4", _other_score_scale),
    "int8: the gate's row scale not multiplied back": ("int8", _lost_gate_scale),
    "int8: activations of seven bits": ("int8", _coarser_activations),
    "int4: nibbles of the table's rows exchanged": ("int4", _nibbles_exchanged),
    "int4: zero points not taken from a matrix": ("int4", _no_zero_points_taken),
    "int8_q4: a missing zero-point correction": ("int8_q4", _no_zero_point),
    "int8_q4: nibbles of the table's rows exchanged": ("int8_q4", _nibbles_exchanged),
    "int8: one norm's epsilon": ("int8", _another_norm),
    "int4: one norm's epsilon": ("int4", _another_norm),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_no_weight_shows(
    checkpoint: Checkpoint, fault: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    """The audit passes, and execution refuses."""
    precision, plant = FAULTS[fault]
    plant(monkeypatch)
    path = written.write(checkpoint, tmp_path, precision)
    audit_graph(path, checkpoint)
    found = _executed(checkpoint, path, precision)
    assert max(e.update_error for e in found) > BOUND


def test_a_graph_without_named_residuals_cannot_be_judged(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = written.write(checkpoint, tmp_path, "int8")
    model = onnx.load(str(path), load_external_data=False)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [n.replace("layers.1.output", "hidden") for n in names]
    onnx.save(model, str(path))
    with pytest.raises(ExecutionError, match="shows 10 residuals"):
        _executed(checkpoint, path, "int8")


def test_roundings() -> None:
    x = torch.tensor([[1.2, -2.0, 0.4, 127.0] + [0.0] * 28 + [254.0] + [0.0] * 31])
    assert rounded_ops.rows(x)[0, :4].tolist() == [2.0, -2.0, 0.0, 128.0]
    assert rounded_ops.blocks(x)[0, :4].tolist() == [1.0, -2.0, 0.0, 127.0]
    assert rounded_ops.blocks(torch.zeros(2, 64)).abs().max() == 0
