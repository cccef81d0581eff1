"""EmbeddingGemma 2: each of its own faults gets its name, and an export that has one is refused by it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedding_export.checkpoint.checkpoint import Checkpoint, load_checkpoint
from embedding_export.errors import ParityError
from embedding_export.onnx.ops import OnnxOps
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_validate.diagnosis import hypotheses, own_inputs
from embedding_validate.forward.interpreter import Interpreter
from embedding_validate.gate import parity_gate
from embedding_validate.probes import lengths
from embedding_validate.reference.reference import Reference

PIECES = ("The orchard gives more plums than we can eat.", "x = sum(a) / len(a)")
Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def checkpoint(tiny_second: Path) -> Checkpoint:
    return load_checkpoint(tiny_second)


@pytest.fixture(scope="module")
def reference(checkpoint: Checkpoint) -> Reference:
    torch.set_num_threads(1)
    return Reference.load(checkpoint)


@pytest.fixture(scope="module")
def evidence(reference: Reference) -> list[tuple[int, ...]]:
    """Short, just past the window of 12, past twice the window."""
    return [reference.token_ids(lengths.compose(PIECES, n, reference.count)) for n in (5, 14, 60)]


def test_the_sound_model_is_the_reference(reference: Reference, checkpoint: Checkpoint) -> None:
    interpreter = Interpreter.of(checkpoint)
    for text in PIECES:
        found = interpreter.vectors(interpreter.sound, [reference.token_ids(text)])[0]
        np.testing.assert_allclose(found, reference.vector(text), atol=2e-6)


def test_no_two_faults_look_alike(checkpoint: Checkpoint, evidence: list[tuple[int, ...]]) -> None:
    interpreter = Interpreter.of(checkpoint)
    sound = interpreter.sound
    faults = dict(hypotheses.alone(sound.config, sound.dense))
    assert own_inputs.faults().keys() <= faults.keys()
    assert not any("Dense" in name or name.startswith("type of layer") for name in faults)
    del faults["normalised, though the checkpoint does not"]  # this checkpoint does
    models = {"sound": sound, **{name: fault(sound) for name, fault in faults.items()}}
    found = {n: [interpreter.vectors(m, [ids])[0] for ids in evidence] for n, m in models.items()}
    alike = [
        (a, b)
        for a in found
        for b in found
        if a < b and all(np.abs(x - y).max() < 1e-4 for x, y in zip(found[a], found[b], strict=True))
    ]
    assert alike == []


def _no_scalar(patch: Patch) -> None:
    patch.setattr(OnnxOps, "scaled", lambda self, x, weight: x)


def _no_value_norm(patch: Patch) -> None:
    true = OnnxOps.head_norm

    def head_norm(self: Any, x: str, weight: str | None, scale: float, layer: Any) -> str:
        return x if weight is None else true(self, x, weight, scale, layer)

    patch.setattr(OnnxOps, "head_norm", head_norm)


def _scaled_scores(patch: Patch) -> None:
    true = OnnxOps.attention

    def attention(self: Any, q: str, k: str, v: str, layer: Any) -> str:
        scale = self.g.constant(np.array(layer.head_dim**-0.5, np.float32))
        return true(self, self.g.node("Mul", q, scale), k, v, layer)

    patch.setattr(OnnxOps, "attention", attention)


FAULTS: dict[str, Callable[[Patch], None]] = {
    "norm of values missing": _no_value_norm,
    "attention scores scaled": _scaled_scores,
}


@pytest.mark.parametrize("name", FAULTS)
def test_an_export_with_a_fault_is_refused_by_its_name(
    name: str, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: Patch
) -> None:
    FAULTS[name](monkeypatch)
    gate = parity_gate(checkpoint)
    with pytest.raises(ParityError, match=name):
        export_bundle(checkpoint, tmp_path / "bundle", ExportOptions(("fp32",)), gate)
    assert not (tmp_path / "bundle").exists()


def test_a_missing_scalar_is_seen_before_anything_runs(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: Patch
) -> None:
    from embedding_export.errors import AuditError

    _no_scalar(monkeypatch)
    with pytest.raises(AuditError, match=r"layers\.0\.layer_scalar is missing"):
        export_bundle(checkpoint, tmp_path / "bundle", ExportOptions(("fp32",)), "not asked")
