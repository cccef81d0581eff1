"""The weight audit passes every sound graph, and refuses planted faults of quantization."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import written
from planted import FAULTS, Q4_0_FAULTS

from embedding_export.audit.audit import audit_graph
from embedding_export.checkpoint.checkpoint import Checkpoint, load_checkpoint
from embedding_export.errors import AuditError
from embedding_export.weights.precisions import PRECISIONS
from embedding_runtime.bundle import Precision

Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(tiny_checkpoint)


def _trained_for_q4_0(checkpoint: Checkpoint) -> Checkpoint:
    return replace(checkpoint, source=replace(checkpoint.source, qat="q4_0"))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_sound_graph_passes(checkpoint: Checkpoint, precision: Precision, tmp_path: Path) -> None:
    assert audit_graph(written.write(checkpoint, tmp_path, precision), checkpoint) == 68


def test_q4_0_passes_with_both_dense(checkpoint: Checkpoint, tmp_path: Path) -> None:
    trained = _trained_for_q4_0(checkpoint)
    assert audit_graph(written.write(trained, tmp_path, "int4"), trained) == 69


def test_another_checkpoint_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """One weight of one tensor, changed by little more than compensation may."""
    name = "layers.2.mlp.up_proj.weight"
    values = checkpoint.tensors[name].array().copy()
    values[3, 5] -= np.sign(values[3, 5]) * np.abs(values[3]).max() / 15
    path = written.write(checkpoint, tmp_path, "int8")
    with pytest.raises(AuditError, match=name):
        audit_graph(path, written.with_tensors(checkpoint, {name: values}))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_refused(
    checkpoint: Checkpoint, fault: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    precision, plant = FAULTS[fault]
    plant(monkeypatch)
    path = written.write(checkpoint, tmp_path, precision)
    with pytest.raises(AuditError, match="steps of its scale"):
        audit_graph(path, checkpoint)


@pytest.mark.parametrize("fault", Q4_0_FAULTS)
def test_a_fault_in_q4_0_is_refused(
    checkpoint: Checkpoint, fault: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    Q4_0_FAULTS[fault](monkeypatch)
    trained = _trained_for_q4_0(checkpoint)
    path = written.write(trained, tmp_path, "int4")
    with pytest.raises(AuditError, match="steps of its scale"):
        audit_graph(path, trained)


def test_a_checkpoint_trained_for_q4_0_gets_no_other_grid(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = written.write(checkpoint, tmp_path, "int4")
    with pytest.raises(AuditError):
        audit_graph(path, _trained_for_q4_0(checkpoint))


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
        audit_graph(path, checkpoint)
