"""Balancing changes the rounding and nothing else, helps where channels stand out, and hides no fault."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import standin
import torch
import written

from embedding_export import balancing
from embedding_export.audit import audit_graph
from embedding_export.balancing import balance
from embedding_export.calibration import Calibration, calibrate
from embedding_export.checkpoint import Checkpoint, load_checkpoint
from embedding_export.encoder import encode
from embedding_export.errors import AuditError
from embedding_export.folding import as_stored
from embedding_export.torch_ops import TorchOps

Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def outliers(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("outliers") / "tiny"
    standin.write(folder, standin.Options(outliers=True))
    return load_checkpoint(folder)


class _Torch(TorchOps):
    """Keeps what calibration should see."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.seen = Calibration()

    def linear(self, x: torch.Tensor, *weights: str) -> tuple[torch.Tensor, ...]:
        self.seen.inputs |= dict.fromkeys(weights, x.abs().amax((0, 1)).numpy())
        return super().linear(x, *weights)

    def head_norm(self, x: torch.Tensor, weight: str, scale: float) -> torch.Tensor:
        normed = super().head_norm(x, weight, scale)
        pairs = normed.reshape(*normed.shape[:2], -1, 2, self.config.head_dim // 2)
        self.seen.heads[weight] = float(pairs.norm(dim=-2).max())
        return normed


def test_calibration_sees_what_the_encoder_computes(outliers: Checkpoint) -> None:
    (ids,) = written.texts(outliers, [60])
    weights = as_stored(outliers)
    ops = _Torch(
        outliers.config, weights, torch.from_numpy(ids[None]), torch.ones(1, len(ids), dtype=torch.int64)
    )
    encode(ops, outliers.config, weights.dense, True)
    seen = calibrate(outliers.config, weights, ids.tolist())
    assert seen.inputs.keys() == ops.seen.inputs.keys()
    for name, largest in seen.inputs.items():
        np.testing.assert_allclose(largest, ops.seen.inputs[name], rtol=1e-3, atol=1e-5)
    assert seen.heads == pytest.approx(ops.seen.heads, rel=1e-4)


def test_factors_are_powers_of_two_and_move_outliers(outliers: Checkpoint) -> None:
    weights = as_stored(outliers)
    seen = calibrate(outliers.config, weights, written.texts(outliers, [60])[0].tolist())
    balanced = balance(outliers.config, weights, seen)
    assert len(balanced.gains) == 2 * outliers.config.num_hidden_layers
    for gain in balanced.gains.values():
        assert (np.frexp(gain)[0] == 0.5).all()
        assert np.sort(gain)[-4:].min() >= 8  # the stand-in's four, 20 times as large and 20 times smaller
    name = "layers.0.mlp.up_proj.weight"
    ratio = balanced.weights.tensors[name].array() / weights.tensors[name].array()
    assert (np.frexp(ratio)[0] == 0.5).all()
    np.testing.assert_array_equal(
        balanced.weights.tensors[name].rows(3, 5), balanced.weights.tensors[name].array()[3:5]
    )


def _loss(checkpoint: Checkpoint, path: Path) -> float:
    weights = as_stored(checkpoint)
    texts = written.texts(checkpoint, [5, 9, 20, 33, 60, 100])
    return float(
        np.mean([written.run(path, [t])[0] @ written.reference(checkpoint, weights, t) for t in texts])
    )


def test_balancing_halves_what_outliers_cost(
    outliers: Checkpoint, tmp_path: Path, monkeypatch: Patch
) -> None:
    path = written.write(outliers, tmp_path, "int8")
    audit_graph(path, outliers)
    balanced = _loss(outliers, path)
    monkeypatch.setattr(balancing, "_factors", lambda activations, columns: np.ones_like(columns))
    plain = _loss(outliers, written.write(outliers, tmp_path, "int8"))
    assert 1 - balanced < (1 - plain) / 2


def test_a_factor_that_is_not_taken_back_is_refused(
    outliers: Checkpoint, tmp_path: Path, monkeypatch: Patch
) -> None:
    """Made in the norm or in a row, missing in the columns: the graph is wrong, and says so."""
    true = balancing._moved
    monkeypatch.setattr(balancing, "_moved", lambda weight, columns=None, rows=None: true(weight, None, rows))
    path = written.write(outliers, tmp_path, "int8")
    with pytest.raises(AuditError, match="steps of its scale"):
        audit_graph(path, outliers)


def test_a_norm_is_off_by_no_other_factor(outliers: Checkpoint, tmp_path: Path) -> None:
    path = written.write(outliers, tmp_path, "int8")
    name = "layers.1.input_layernorm.weight"
    changed = {name: 1.1 * (1 + outliers.tensors[name].array()) - 1}
    with pytest.raises(AuditError, match=r"layers\.1\.self_attn"):
        audit_graph(path, written.with_tensors(outliers, changed))


def test_calibration_needs_tokens(outliers: Checkpoint) -> None:
    with pytest.raises(ValueError, match="tokens"):
        calibrate(outliers.config, as_stored(outliers), [])
