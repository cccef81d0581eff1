"""The weight audit passes every sound graph, and refuses planted faults of quantization."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import written

from embedding_export import onnx_int4, quantize
from embedding_export.audit import audit_onnx
from embedding_export.checkpoint import Checkpoint, load_checkpoint
from embedding_export.errors import AuditError
from embedding_export.precisions import PRECISIONS
from embedding_runtime.bundle import Precision

Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(tiny_checkpoint)


def _trained_for_q4_0(checkpoint: Checkpoint) -> Checkpoint:
    return replace(checkpoint, source=replace(checkpoint.source, qat="q4_0"))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_sound_graph_passes(checkpoint: Checkpoint, precision: Precision, tmp_path: Path) -> None:
    assert audit_onnx(written.write(checkpoint, tmp_path, precision), checkpoint) == 68


def test_q4_0_passes_with_both_dense(checkpoint: Checkpoint, tmp_path: Path) -> None:
    trained = _trained_for_q4_0(checkpoint)
    assert audit_onnx(written.write(trained, tmp_path, "int4"), trained) == 69


def test_another_checkpoint_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """One weight of one tensor, changed by little more than a step."""
    name = "layers.2.mlp.up_proj.weight"
    values = checkpoint.tensors[name].array().copy()
    values[3, 5] += np.abs(values[3]).max() / 100
    path = written.write(checkpoint, tmp_path, "int8")
    with pytest.raises(AuditError, match=name):
        audit_onnx(path, written.with_tensors(checkpoint, {name: values}))


def _changed(change: Callable[[Any], Any], functions: tuple[str, ...], shape: tuple[int, int]) -> Any:
    """Plant: what quantizes a tensor of `shape` [rows, columns] gets its result changed."""

    def plant(patch: Patch) -> None:
        for module, name in [(m, f) for m in (quantize, onnx_int4) for f in functions if hasattr(m, f)]:
            true = getattr(module, name)

            def faulty(values: Any, *args: Any, true: Any = true) -> Any:
                found = true(values, *args)
                return change(found) if values.shape == shape else found

            patch.setattr(module, name, faulty)

    return plant


def _swapped_scales(found: Any) -> Any:
    scales = found.scales.copy()
    scales[[0, 1]] = scales[[1, 0]]
    return replace(found, scales=scales)


def _larger_scales(found: Any) -> Any:
    return replace(found, scales=found.scales * np.float32(1.1))


def _unsigned_bytes(found: Any) -> Any:
    """Bytes written as unsigned (code + 128), declared as signed."""
    return replace(found, codes=(found.codes.astype(np.int16) + 128).astype(np.uint8).view(np.int8))


def _without_zeros(found: Any) -> Any:
    return replace(found, zeros=np.zeros_like(found.zeros))


def _swap_nibbles(function: str) -> Callable[[Patch], None]:
    def plant(patch: Patch) -> None:
        true = getattr(onnx_int4, function)
        patch.setattr(onnx_int4, function, lambda codes: (true(codes) << 4) | (true(codes) >> 4))

    return plant


UP, TABLE = (96, 64), (4096, 64)
INT8, INT4 = ("int8_rows",), ("int4_blocks", "q4_0_blocks")
FAULTS: dict[str, tuple[Precision, Callable[[Patch], None]]] = {
    "int8: two rows' scales swapped": ("int8", _changed(_swapped_scales, INT8, UP)),
    "int8: two rows' scales of the table swapped": ("int8", _changed(_swapped_scales, INT8, TABLE)),
    "int8: a tensor's scales x 1.1": ("int8", _changed(_larger_scales, INT8, UP)),
    "int8: unsigned bytes as signed": ("int8", _changed(_unsigned_bytes, INT8, UP)),
    "int8: unsigned bytes as signed in the table": ("int8", _changed(_unsigned_bytes, INT8, TABLE)),
    "int4: two rows' scales swapped": ("int4", _changed(_swapped_scales, INT4, UP)),
    "int4: two rows' scales of the table swapped": ("int4", _changed(_swapped_scales, INT4, TABLE)),
    "int4: a tensor's scales x 1.1": ("int4", _changed(_larger_scales, INT4, UP)),
    "int4: no zero points": ("int4", _changed(_without_zeros, INT4, UP)),
    "int4: no zero points in the table": ("int4", _changed(_without_zeros, INT4, TABLE)),
    "int4: nibbles swapped": ("int4", _swap_nibbles("pack_pairs")),
    "int4: nibbles of the table swapped": ("int4", _swap_nibbles("pack_halves")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_refused(
    checkpoint: Checkpoint, fault: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    precision, plant = FAULTS[fault]
    plant(monkeypatch)
    path = written.write(checkpoint, tmp_path, precision)
    with pytest.raises(AuditError, match="steps of its scale"):
        audit_onnx(path, checkpoint)


@pytest.mark.parametrize("fault", [f for f, (p, _) in FAULTS.items() if p == "int4" and "no zero" not in f])
def test_a_fault_in_q4_0_is_refused(
    checkpoint: Checkpoint, fault: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    FAULTS[fault][1](monkeypatch)
    trained = _trained_for_q4_0(checkpoint)
    path = written.write(trained, tmp_path, "int4")
    with pytest.raises(AuditError, match="steps of its scale"):
        audit_onnx(path, trained)


def test_a_checkpoint_trained_for_q4_0_gets_no_other_grid(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = written.write(checkpoint, tmp_path, "int4")
    with pytest.raises(AuditError):
        audit_onnx(path, _trained_for_q4_0(checkpoint))


def test_scales_without_codes_are_not_passed_over(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: Patch
) -> None:
    import onnx

    path = written.write(checkpoint, tmp_path, "int8")
    model = onnx.load(str(path), load_external_data=False)
    (tensor,) = (t for t in model.graph.initializer if t.name == "layers.0.mlp.up_proj.weight:int8")
    tensor.name = "layers.0.mlp.up_proj.weight:int9"
    onnx.save(model, str(path))
    with pytest.raises(AuditError, match="is missing"):
        audit_onnx(path, checkpoint)
