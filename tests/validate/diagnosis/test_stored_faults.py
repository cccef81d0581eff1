"""Faults of storing weights are named: the right name for every one that is planted."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import planted
import pytest
import written

from embedding_export.architectures.interface.tensors import TensorSpec
from embedding_export.architectures.registry import tensor_specs
from embedding_export.audit.audit import Difference, differences
from embedding_export.checkpoint.checkpoint import Checkpoint, load_checkpoint
from embedding_export.weights.stored import Grid
from embedding_validate.diagnosis import stored_faults

# What is planted in `planted.FAULTS` -> a pattern of what must be said of it.
NAMES = {
    "two rows' scales swapped": "scales of rows \\d+ and \\d+ exchanged \\(layers.[012].mlp.",
    "two rows' scales of the table swapped": "scales of rows 0 and 1 exchanged \\(embed_tokens.weight\\)",
    "a tensor's scales x 1.1": "all values x 1.1 \\(layers.0.mlp.",
    "unsigned bytes as signed": "unsigned codes read as signed \\(layers.0.mlp.",
    "unsigned bytes as signed in the table": "unsigned codes read as signed \\(embed_tokens.weight\\)",
    "no zero points": "zero points missing \\(layers.0.mlp.",
    "no zero points in the table": "zero points missing \\(embed_tokens.weight\\)",
    "nibbles swapped": "4-bit codes of neighbouring columns exchanged \\(layers.0.self_attn.",
    "nibbles of the table swapped": "4-bit codes of the two halves of a row exchanged \\(embed_tokens.weight",
}


_GAIN = {"x.weight": TensorSpec((64,), "gain", "head", offset=1.0)}


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(tiny_checkpoint)


@pytest.mark.parametrize("fault", planted.FAULTS)
def test_a_planted_fault_is_named(
    fault: str, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precision, plant = planted.FAULTS[fault]
    plant(monkeypatch)
    _, found = differences(written.write(checkpoint, tmp_path, precision), checkpoint)
    findings = stored_faults.findings(found, tensor_specs(checkpoint.config))
    assert len({re.sub(r"\d+", "", f.name.partition(" (")[0]) for f in findings}) == 1, "one mistake"
    for finding in findings:  # one for each pair of rows
        assert re.match(f"stored weights: {NAMES[fault.partition(': ')[2]]}", finding.name)
        assert "steps of its scale" in finding.evidence


def test_a_sound_graph_has_none(checkpoint: Checkpoint, tmp_path: Path) -> None:
    _, found = differences(written.write(checkpoint, tmp_path, "int8"), checkpoint)
    assert stored_faults.findings(found, tensor_specs(checkpoint.config)) == []


def _stored(values: np.ndarray, want: np.ndarray, step: float, name: str = "x.weight") -> Difference:
    """A tensor as a file might hold it, on an even grid."""

    def grid(start: int, stop: int) -> Grid:
        part = values[start:stop].astype(np.float32)
        return Grid(part, np.full_like(part, step), np.full_like(part, -9e9), np.full_like(part, 9e9))

    stored: Any = SimpleNamespace(shape=values.shape, grid=grid)
    return Difference(name, "differs", stored, lambda start, stop: want[start:stop].astype(np.float32))


def test_other_mistakes() -> None:
    rng = np.random.default_rng(0)
    want = rng.integers(-100, 100, (40, 64)) * 0.01
    changed = want.copy()
    changed[7, 3] += 0.5
    gain = 1 + rng.standard_normal(64)
    for values, right, expected in (
        (np.roll(want, 1, axis=0), want, "each row is its neighbour's"),
        (changed, want, "1 of 40 rows wrong"),
        (rng.permutation(want.ravel()).reshape(want.shape), want, "quantization error beyond its class"),
        (gain - 1, gain, "w instead of 1 + w"),
        (gain * 2, gain, "all values x 2"),
        (gain[::-1], gain, "other values"),
    ):
        (finding,) = stored_faults.findings([_stored(values, right, 0.01)], _GAIN)
        assert finding.name == f"stored weights: {expected} (x.weight)"


def test_a_gain_without_offset_is_told_apart() -> None:
    gain = np.linspace(0.5, 1.5, 64)
    plain = {"x.weight": TensorSpec((64,), "gain", "head")}
    (finding,) = stored_faults.findings([_stored(gain + 1, gain, 0.01)], plain)
    assert finding.name == "stored weights: 1 + w instead of w (x.weight)"
    (finding,) = stored_faults.findings([_stored(gain - 1, gain, 0.01)], plain)
    assert finding.name == "stored weights: other values (x.weight)"


def test_nothing_is_said_of_what_a_wrong_norm_hides(checkpoint: Checkpoint) -> None:
    """An int8 graph's matrices are read by factors that the norm before them carries."""
    want = np.ones((40, 64))
    norm = _stored(want[0] * 2, want[0], 0.01, "layers.0.input_layernorm.weight")
    matrices = [_stored(want * 3, want, 0.01, f"layers.0.self_attn.{n}_proj.weight") for n in "qo"]
    specs = tensor_specs(checkpoint.config)
    names = [f.name for f in stored_faults.findings([norm, *matrices], specs)]
    assert names == ["stored weights: all values x 2 (layers.0.input_layernorm.weight)"]


def test_a_missing_tensor() -> None:
    (finding,) = stored_faults.findings([Difference("norm.weight", "is missing")], {})
    assert finding.name == "stored weights: missing (norm.weight)"
