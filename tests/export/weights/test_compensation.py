"""4-bit codes that make good each other's errors: less is lost, and codes stay near their values."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import standin
import written
from numpy.typing import NDArray

from embedding_export.audit.audit import audit_graph
from embedding_export.checkpoint.checkpoint import Checkpoint, load_checkpoint
from embedding_export.weights import compensation, matrices
from embedding_export.weights.calibration import calibrate
from embedding_export.weights.compensation import compensated_int4, compensated_symmetric
from embedding_export.weights.folding import as_stored
from embedding_export.weights.matrices import Matrices
from embedding_export.weights.quantize import (
    BLOCK,
    Int4Blocks,
    Int4Rows,
    Int4Symmetric,
    bfloat16,
    int4_blocks,
    int4_symmetric,
    int4_within_int8,
)

Floats = NDArray[np.float32]


def _values(found: Int4Blocks | Int4Rows | Int4Symmetric, block: int) -> tuple[Floats, Floats]:
    """What codes stand for and the steps of each, [out, in]."""
    scales = found.scales.astype(np.float32)
    scales = scales * found.steps if isinstance(found, Int4Rows) else scales
    steps = np.repeat(scales, block, axis=1)
    codes = found.codes.astype(np.float32).reshape(steps.shape)
    if not isinstance(found, Int4Symmetric):
        codes = codes - np.repeat(found.zeros, block, axis=1)
    return codes * steps, steps


@pytest.fixture(scope="module")
def correlated() -> tuple[Floats, Floats, Floats]:
    """A matrix [50, 128], moments of its inputs, and other inputs of the kind."""
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((128, 128)) @ np.diag(np.geomspace(1, 0.05, 128))
    seen, other = ((rng.standard_normal((n, 128)) @ mixed.T).astype(np.float32) for n in (600, 300))
    return rng.standard_normal((50, 128)).astype(np.float32), seen.T @ seen / np.float32(len(seen)), other


@pytest.mark.parametrize("block", [32, 64])
@pytest.mark.parametrize(
    ("compensated", "plain"),
    [(compensated_int4, lambda v, b: int4_blocks(v, np.float32, b)), (compensated_symmetric, int4_symmetric)],
    ids=["zero points", "symmetric"],
)
def test_products_err_less(compensated: Any, plain: Any, block: int, correlated: Any) -> None:
    """Than with the nearest codes, on inputs that were not seen."""
    matrix, moments, other = correlated
    found, steps = _values(compensated(matrix, moments, block), block)
    nearest, _ = _values(plain(matrix, block), block)

    def error(values: Floats) -> float:
        return float(np.square(other @ (values - matrix).T).mean())

    assert error(found) < 0.5 * error(nearest)
    beyond = np.abs(found - matrix) / steps
    assert np.quantile(beyond, 0.99) <= compensation.MOST_STEPS_OF_4_BITS + 0.501


def test_scales_are_such_as_engines_take(correlated: Any) -> None:
    """Symmetric ones: positive, normal in float16, and the same in bfloat16."""
    matrix, moments, _ = correlated
    matrix = matrix.copy()
    matrix[7] = 0
    matrix[8] *= np.float32(1e-6)
    scales = compensated_symmetric(matrix, moments, 32).scales
    assert scales.dtype == np.float16
    assert scales.min() >= np.float16(2.0**-14)
    np.testing.assert_array_equal(bfloat16(scales.astype(np.float32)), scales.astype(np.float32))


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_codes_are_8_bits(shift: float, correlated: Any) -> None:
    """What the graph makes of them fits int8, whatever the zero points."""
    matrix, moments, _ = correlated
    found = compensated_int4(matrix + np.float32(shift), moments, 32)
    eight = (found.codes.astype(int) - found.zeros[:, :, None]) * found.steps[:, :, None].astype(int)
    assert np.abs(eight).max(axis=(1, 2)).mean() > 90 and np.abs(eight).max() <= 127
    assert found.steps.min() >= 1 and found.steps.max() <= 15 and found.scales.shape == (len(matrix), 1)


def test_channels_that_are_never_live() -> None:
    matrix = np.random.default_rng(0).standard_normal((5, 64)).astype(np.float32)
    found, _ = _values(compensated_int4(matrix, np.zeros((64, 64), np.float32), 32), 32)
    nearest, _ = _values(int4_within_int8(matrix, BLOCK, np.ones(64, np.float32)), 32)
    assert np.square(found - matrix).sum() <= np.square(nearest - matrix).sum()


def test_rows_of_zeros_stay_zeros(correlated: Any) -> None:
    _, moments, _ = correlated
    zeros = np.zeros((3, 128), np.float32)
    for found in (compensated_int4(zeros, moments, 32), compensated_symmetric(zeros, moments, 32)):
        assert not _values(found, 32)[0].any()


@pytest.mark.parametrize(
    "quantize", [lambda v, i: int4_blocks(v, np.float32, 32, i), lambda v, i: int4_symmetric(v, 32, i)]
)
def test_what_counts_more_errs_less(quantize: Any) -> None:
    values = np.random.default_rng(0).standard_normal((300, 64)).astype(np.float32)
    counts = np.ones(64, np.float32)
    counts[::4] = 100
    errors = [np.square(_values(quantize(values, i), 32)[0] - values).mean(axis=0) for i in (None, counts)]
    assert errors[1][::4].mean() < 0.9 * errors[0][::4].mean()
    np.testing.assert_allclose(
        errors[0], np.square(_values(quantize(values, np.ones(64)), 32)[0] - values).mean(0)
    )


@pytest.fixture(scope="module")
def outliers(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("outliers") / "tiny"
    standin.write(folder, standin.Options(outliers=True))
    return load_checkpoint(folder)


def _loss(checkpoint: Checkpoint, path: Path) -> float:
    weights = as_stored(checkpoint)
    texts = written.texts(checkpoint, [5, 9, 20, 33, 60, 100])
    cosines = [written.run(path, [t])[0] @ written.reference(checkpoint, weights, t) for t in texts]
    return 1 - float(np.mean(cosines))


def test_each_precision_loses_more_than_the_one_before(outliers: Checkpoint, tmp_path: Path) -> None:
    losses = [_loss(outliers, written.write(outliers, tmp_path, p)) for p in ("int8", "int8_q4", "int4")]
    assert losses[0] < losses[1] < losses[2]


def test_compensation_is_worth_it(
    outliers: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written.write(outliers, tmp_path, "int4")
    audit_graph(path, outliers)
    whole = _loss(outliers, path)
    monkeypatch.setattr(
        matrices, "compensated_int4", lambda v, _, b: int4_within_int8(v, b, np.ones(v.shape[1], np.float32))
    )
    assert _loss(outliers, written.write(outliers, tmp_path, "int4")) > 1.1 * whole


def test_codes_are_computed_once(outliers: Checkpoint) -> None:
    weights = as_stored(outliers)
    texts = [t.tolist() for t in written.texts(outliers, [40])]
    found = Matrices(outliers.config, weights, calibrate(outliers.config, weights, texts))
    name = "layers.0.self_attn.q_proj.weight"
    assert found.int8(name) is found.int8(name) and found.int4(name) is found.int4(name)
    counts = found.table_moments
    assert counts.shape == 2 * (outliers.config.hidden_size,) and np.linalg.eigvalsh(counts).min() > 0
