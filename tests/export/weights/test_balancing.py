"""Balancing, turning and compensation change the rounding and nothing else, help, and hide no fault."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import standin
import torch
import written

from embedding_export.architectures.interface.figures import Layer
from embedding_export.architectures.registry import encode, tensor_specs
from embedding_export.audit import read_eight_bits
from embedding_export.audit.audit import audit_graph
from embedding_export.checkpoint.checkpoint import Checkpoint, load_checkpoint
from embedding_export.errors import AuditError
from embedding_export.weights import balancing, compensation, matrices, turning
from embedding_export.weights.balancing import balance, balance_heads
from embedding_export.weights.calibration import Calibration, Heads, calibrate
from embedding_export.weights.compensation import compensated_int8
from embedding_export.weights.folding import as_stored
from embedding_export.weights.quantize import int8_rows
from embedding_validate.forward.torch_ops import TorchOps

Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def outliers(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("outliers") / "tiny"
    standin.write(folder, standin.Options(outliers=True))
    return load_checkpoint(folder)


def _seen(checkpoint: Checkpoint, lengths: list[int]) -> Calibration:
    texts = [t.tolist() for t in written.texts(checkpoint, lengths)]
    return calibrate(checkpoint.config, as_stored(checkpoint), texts)


class _Torch(TorchOps):
    """Keeps what calibration should see."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.seen = Calibration()

    def linear(self, x: torch.Tensor, *weights: str) -> tuple[torch.Tensor, ...]:
        self.seen.moments |= dict.fromkeys(weights, (x[0].T @ x[0]).numpy())
        return super().linear(x, *weights)

    def rms_norm(self, x: torch.Tensor, weight: str, before: float = 1.0) -> torch.Tensor:
        normed = super().rms_norm(x, weight, before)
        if x.dim() == 3:
            self.seen.inputs[weight] = normed[0].numpy()
        return normed

    def head_norm(self, x: torch.Tensor, weight: str | None, scale: float, layer: Layer) -> torch.Tensor:
        normed = super().head_norm(x, weight, scale, layer)
        if weight is None:
            return normed
        pairs = normed.reshape(-1, 2, layer.head_dim // 2).norm(dim=1)
        self.seen.heads[weight] = Heads(pairs.amax(0).numpy(), pairs.square().mean(0).numpy())
        return normed


def test_calibration_sees_what_the_encoder_computes(outliers: Checkpoint) -> None:
    """Two texts, joined without padding, give what they give one by one."""
    lengths, weights = [60, 7], as_stored(outliers)
    found = []
    for text in written.texts(outliers, lengths):
        mask = torch.ones(1, len(text), dtype=torch.int64)
        ops = _Torch(outliers.config, weights, torch.from_numpy(text[None]), mask)
        with torch.no_grad():
            encode(ops, outliers.config, weights.dense, True)
        found.append(ops.seen)
    seen = _seen(outliers, lengths)
    for name, rows in seen.inputs.items():
        together = np.concatenate([f.inputs[name] for f in found])
        np.testing.assert_allclose(rows, together, rtol=1e-3, atol=1e-4 * np.abs(together).max())
    for name, moments in seen.moments.items():
        both = sum(f.moments[name] for f in found) / sum(lengths)
        np.testing.assert_allclose(moments, both, rtol=1e-2, atol=1e-3 * np.abs(both).max())
    for name, heads in seen.heads.items():
        largest = np.max([f.heads[name].largest for f in found], axis=0)
        np.testing.assert_allclose(heads.largest, largest, rtol=1e-3)
    assert len(seen.moments) == 7 * len(outliers.config.layer_types)


def test_factors_are_powers_of_two_and_move_outliers(outliers: Checkpoint) -> None:
    weights = as_stored(outliers)
    balanced = balance(outliers.config, weights, _seen(outliers, [60]))
    assert len(balanced.gains) == 2 * len(outliers.config.layer_types)
    for gain in balanced.gains.values():
        assert (np.frexp(gain)[0] == 0.5).all()
        # The stand-in's four, 20 times as large, of which one may be where peaks are weighed down.
        assert np.sort(gain)[-3:].min() >= 4 * np.median(gain)
    name = "layers.0.mlp.up_proj.weight"
    ratio = balanced.weights.tensors[name].array() / weights.tensors[name].array()
    assert (np.frexp(ratio)[0] == 0.5).all()


def test_heads_share_what_stands_out() -> None:
    """One pair of keys 50 times as large as the others: both sides' codes err less on the whole."""
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 400, 8)).astype(np.float32)
    k[:, [2, 6]] *= 50
    q[:, [2, 6]] /= 10

    def error(q: Any, k: Any) -> float:
        codes = (np.rint(x * (127 / np.abs(x).max())) * (np.abs(x).max() / 127) for x in (q, k))
        rounded = next(codes) @ next(codes).T
        return float(np.square(rounded - q @ k.T).mean())

    def heads(x: Any) -> Heads:
        pairs = np.hypot(x[:, :4], x[:, 4:])
        return Heads(pairs.max(axis=0), np.square(pairs).mean(axis=0))

    factors = np.tile(balancing._head_factors(heads(q), heads(k)), 2)
    assert (np.frexp(factors)[0] == 0.5).all()
    assert error(q * factors, k / factors) < error(q, k) / 3


def test_turning_is_undone_by_itself_and_spreads() -> None:
    rng = np.random.default_rng(0)
    for width in (64, 24, 7):
        rows = rng.standard_normal((3, width)).astype(np.float32)
        np.testing.assert_allclose(turning.turned(turning.turned(rows)), rows, atol=1e-6)
        np.testing.assert_array_equal(turning.turn(width), read_eight_bits.turning(width))
    one = np.eye(1, 64, dtype=np.float32)
    np.testing.assert_array_equal(np.abs(turning.turned(one))[0, :16], np.full(16, 0.25, np.float32))


def test_compensation_makes_good_what_rounding_changes() -> None:
    """On correlated inputs, seen or of the same kind, the products err less; scales stay the same."""
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((96, 96)) @ np.diag(np.geomspace(1, 0.05, 96))
    seen, other = ((rng.standard_normal((n, 96)) @ mixed.T).astype(np.float32) for n in (400, 300))
    matrix = rng.standard_normal((50, 96)).astype(np.float32)
    found, plain = compensated_int8(matrix, seen.T @ seen / np.float32(len(seen))), int8_rows(matrix)
    np.testing.assert_array_equal(found.scales, plain.scales)

    def error(codes: Any) -> float:
        return float(np.square(other @ (codes * plain.scales[:, None] - matrix).T).mean())

    assert error(found.codes) < error(plain.codes) / 2
    steps = np.abs(found.codes - matrix / plain.scales[:, None])
    assert steps.max() <= compensation.MOST_STEPS + 0.501


def test_compensation_of_channels_that_are_never_live() -> None:
    matrix = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)
    found = compensated_int8(matrix, np.zeros((16, 16), np.float32))
    np.testing.assert_array_equal(found.codes, int8_rows(matrix).codes)


def _loss(checkpoint: Checkpoint, path: Path) -> float:
    weights = as_stored(checkpoint)
    texts = written.texts(checkpoint, [5, 9, 20, 33, 60, 100])
    cosines = [written.run(path, [t])[0] @ written.reference(checkpoint, weights, t) for t in texts]
    return 1 - float(np.mean(cosines))


def test_what_each_step_is_worth(outliers: Checkpoint, tmp_path: Path, monkeypatch: Patch) -> None:
    """Without balancing outliers cost more than twice as much; without turning a good deal more."""
    path = written.write(outliers, tmp_path, "int8")
    audit_graph(path, outliers)
    whole = _loss(outliers, path)
    with monkeypatch.context() as patch:
        specs = {n: replace(s, turning=None) for n, s in tensor_specs(outliers.config).items()}
        patch.setattr(matrices, "tensor_specs", lambda _: specs)
        straight = written.write(outliers, tmp_path, "int8")
        audit_graph(straight, outliers)
        assert _loss(outliers, straight) > 1.2 * whole
    monkeypatch.setattr(balancing, "_factors", lambda inputs, _: np.ones(inputs.shape[1], np.float32))
    assert _loss(outliers, written.write(outliers, tmp_path, "int8")) > 2 * whole


def test_a_factor_that_is_not_taken_back_is_refused(
    outliers: Checkpoint, tmp_path: Path, monkeypatch: Patch
) -> None:
    """Made in the norm, missing in the columns: the graph is wrong, and says so."""
    true = balancing._Moved
    monkeypatch.setattr(balancing, "_Moved", lambda weight, columns: true(weight, np.ones_like(columns)))
    path = written.write(outliers, tmp_path, "int8")
    with pytest.raises(AuditError, match="steps of its scale"):
        audit_graph(path, outliers)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_heads_that_are_shared_on_one_side_alone_are_refused(
    outliers: Checkpoint, precision: Any, tmp_path: Path, monkeypatch: Patch
) -> None:
    true = balance_heads

    def queries_alone(*given: Any) -> dict[str, Any]:
        return {n: g if "q_norm" in n else np.ones_like(g) for n, g in true(*given).items()}

    monkeypatch.setattr(balancing, "_head_factors", lambda q, k: np.full(len(q.largest), 2, np.float32))
    audit_graph(written.write(outliers, tmp_path, precision), outliers)
    for module in ("int8", "writer"):
        monkeypatch.setattr(f"embedding_export.onnx.{module}.balance_heads", queries_alone)
    path = written.write(outliers, tmp_path, precision)
    with pytest.raises(AuditError, match=r"k_norm\.weight differs"):
        audit_graph(path, outliers)


def test_a_matrix_that_is_not_turned_as_it_says_is_refused(
    outliers: Checkpoint, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(matrices, "_turned", lambda weight, turning: weight)
    path = written.write(outliers, tmp_path, "int8")
    with pytest.raises(AuditError, match="steps of its scale"):
        audit_graph(path, outliers)


def test_a_norm_is_off_by_no_other_factor(outliers: Checkpoint, tmp_path: Path) -> None:
    path = written.write(outliers, tmp_path, "int8")
    name = "layers.1.input_layernorm.weight"
    changed = {name: 1.1 * outliers.tensors[name].array()}
    with pytest.raises(AuditError, match=r"layers\.1\.self_attn"):
        audit_graph(path, written.with_tensors(outliers, changed))


def test_calibration_needs_tokens(outliers: Checkpoint) -> None:
    with pytest.raises(ValueError, match="tokens"):
        calibrate(outliers.config, as_stored(outliers), [[]])
