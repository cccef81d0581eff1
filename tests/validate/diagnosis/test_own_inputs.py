"""EmbeddingGemma 2: each of its own faults gets its name, and an export that has one is refused by it."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faulty_exports import with_config, with_window

from embedding_export.architectures.interface.figures import Figures
from embedding_export.architectures.registry import tensor_specs
from embedding_export.checkpoint.checkpoint import Checkpoint, load_checkpoint
from embedding_export.errors import AuditError, ParityError
from embedding_export.onnx.int8 import Int8Ops, Scaled
from embedding_export.onnx.ops import OnnxOps
from embedding_export.options import ExportOptions
from embedding_export.pipeline import Gate, export_bundle
from embedding_runtime.bundle import Precision
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


# Faults planted in the exporter's forward pass: what is stored is right, and so is what the audit reads.


def _unused_scalar(patch: Patch) -> None:
    """Stored, and multiplied by nothing."""

    def scaled(self: Any, x: str, weight: str) -> str:
        self._vector(weight)
        return x

    patch.setattr(OnnxOps, "scaled", scaled)


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


def _one_plus_w(patch: Patch) -> None:
    """As the first model's norms multiply; stored is w."""

    def norm(self: Any, x: str, weight: str, scale: float, epsilon: float) -> str:
        if not self.g.has(weight):
            values = self.weights.tensors[weight].array() * np.float32(scale)
            self.g.weight(weight, np.float32, values.shape, [values])
        one = self.g.constant(np.array(scale, np.float32))
        return str(self._normed(x, self.g.node("Add", weight, one), epsilon))

    patch.setattr(OnnxOps, "_norm", norm)


def _partly_rotated(patch: Patch) -> None:
    """As Gemma 4's global layers: of each head a quarter of the pairs."""
    true = OnnxOps.rope

    def rope(self: Any, x: str, layer: Any) -> str:
        if layer.window is not None:
            return true(self, x, layer)
        pairs = np.arange(layer.head_dim) % (layer.head_dim // 2)
        rotated = self.g.constant(pairs < layer.head_dim // 8)  # [D]
        own, turned = (
            self.g.node("Reshape", y, self.g.ints(0, 0, -1, layer.head_dim))
            for y in (x, true(self, x, layer))
        )
        return str(self.g.node("Reshape", self.g.node("Where", rotated, turned, own), self.g.ints(0, 0, -1)))

    patch.setattr(OnnxOps, "rope", rope)


def _own_input_of_state(patch: Patch) -> None:
    true = Int8Ops.linear_beside
    patch.setattr(OnnxOps, "linear_beside", lambda self, _, weight, beside: self.linear(beside, weight)[0])
    patch.setattr(
        Int8Ops, "linear_beside", lambda self, _, weight, beside: true(self, beside, weight, beside)
    )


def _normed_gate(patch: Patch) -> None:
    plain, eight = OnnxOps.linear, Int8Ops.linear

    def normed(ops: Any, x: str, weight: str) -> str:
        if not tensor_specs(ops.config)[weight].unnormed:
            return x
        ones = ops.g.constant(np.ones(ops.config.hidden_size, np.float32))
        return str(OnnxOps._normed(ops, x, ones, ops.config.rms_norm_eps))

    def linear(self: Any, x: str, *weights: str) -> tuple[str, ...]:
        return plain(self, normed(self, x, weights[0]), *weights)

    def linear_int8(self: Any, x: Scaled, *weights: str) -> tuple[Scaled, ...]:
        return eight(self, Scaled(normed(self, x.name, weights[0]), x.scales), *weights)

    patch.setattr(OnnxOps, "linear", linear)
    patch.setattr(Int8Ops, "linear", linear_int8)


def _no_own_input(patch: Patch) -> None:
    true = OnnxOps.residual

    def residual(self: Any, x: str, update: str, name: str) -> str:
        update = self.g.node("Sub", x, x) if name.endswith(".output") else update
        return true(self, x, update, name)

    patch.setattr(OnnxOps, "residual", residual)


def _one_theta(config: Figures) -> dict[str, Any]:
    near, far = config.local_layer, config.global_layer
    return {"global_layer": dataclasses.replace(far, rope_theta=near.rope_theta)}


FAULTS: dict[str, Callable[[Patch], None]] = {
    "window halved": with_window(lambda window: window // 2),
    "window off by one (too narrow)": with_window(lambda window: window - 1),
    "window off by one (too wide)": with_window(lambda window: window + 1),
    "norms multiply by 1 + w instead of w": _one_plus_w,
    "norm of values missing": _no_value_norm,
    "attention scores scaled": _scaled_scores,
    "layer scalar missing": _unused_scalar,
    "a quarter of global heads rotated": _partly_rotated,
    "local RoPE base everywhere": with_config(_one_theta),
    "layers' own inputs missing": _no_own_input,
    "layers' own inputs from the layer's state": _own_input_of_state,
    "gate of layers' own inputs normed": _normed_gate,
}
# Of int8 graphs, whose forward pass takes these from the float one: what is stored is held to first.
OF_INT8 = (
    "window halved",
    "norm of values missing",
    "layer scalar missing",
    "layers' own inputs missing",
    "layers' own inputs from the layer's state",
    "gate of layers' own inputs normed",
)


def test_layers_of_different_shapes_are_not_exchanged(
    checkpoint: Checkpoint, gate: Gate, tmp_path: Path, monkeypatch: Patch
) -> None:
    """What no known fault explains is localised: layers are held against those of their own shape alone."""
    monkeypatch.setattr(
        OnnxOps, "gelu_gate", lambda self, gate, up: self.g.node("Mul", self.g.node("Relu", gate), up)
    )
    with pytest.raises(ParityError, match=r"layer 0 differs from its feed-forward block on"):
        export_bundle(checkpoint, tmp_path / "bundle", ExportOptions(("fp32",)), gate)


def test_every_fault_of_its_own_is_planted() -> None:
    assert own_inputs.faults().keys() <= FAULTS.keys()


@pytest.fixture(scope="module")
def gate(checkpoint: Checkpoint) -> Gate:
    """The real gate, shared: the reference answers once."""
    return parity_gate(checkpoint)


PLANTED: list[tuple[Precision, str]] = [*(("fp32", f) for f in FAULTS), *(("int8", f) for f in OF_INT8)]


@pytest.mark.parametrize(("precision", "name"), PLANTED)
def test_an_export_with_a_fault_is_refused_by_its_name(
    precision: Precision, name: str, checkpoint: Checkpoint, gate: Gate, tmp_path: Path, monkeypatch: Patch
) -> None:
    FAULTS[name](monkeypatch)
    with pytest.raises(ParityError, match=re.escape(name)):
        export_bundle(checkpoint, tmp_path / "bundle", ExportOptions((precision,)), gate)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_scalar_is_seen_before_anything_runs(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(OnnxOps, "scaled", lambda self, x, weight: x)
    with pytest.raises(AuditError, match=r"layers\.0\.layer_scalar is missing"):
        export_bundle(checkpoint, tmp_path / "bundle", ExportOptions(("fp32",)), "not asked")
