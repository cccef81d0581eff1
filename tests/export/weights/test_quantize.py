"""Number formats: error bounds, best grids, and Q4_0 as GGML defines it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from embedding_export.errors import ExportError
from embedding_export.weights import quantize

Floats = NDArray[np.float32]

ROWS = hnp.arrays(
    np.float32, (3, 64), elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False), fill=st.just(0)
)


def _normal(rows: int = 200, columns: int = 96) -> Floats:
    return np.random.default_rng(0).standard_normal((rows, columns), dtype=np.float32)


def _int4_values(found: quantize.Int4Blocks) -> Floats:
    centred = found.codes.astype(np.float32) - found.zeros[:, :, None]
    return (centred * found.scales[:, :, None]).reshape(len(found.codes), -1)


@given(ROWS)
def test_int8_rows_err_by_half_a_step(values: Floats) -> None:
    rows = quantize.int8_rows(values)
    errors = np.abs(rows.codes * rows.scales[:, None] - values)
    assert (errors <= rows.scales[:, None] * (0.5 + 1e-4)).all()
    assert np.abs(rows.codes).max() <= 127


def test_int8_rows_use_the_whole_range() -> None:
    assert (np.abs(quantize.int8_rows(_normal()).codes.astype(int)).max(axis=1) == 127).all()


@given(ROWS)
def test_int4_blocks_are_never_worse_than_the_plain_grid(values: Floats) -> None:
    """The plain grid spans exactly the block's range."""
    found = quantize.int4_blocks(values)
    blocks = values.reshape(-1, 32)
    low, high = np.minimum(blocks.min(1), 0)[:, None], np.maximum(blocks.max(1), 0)[:, None]
    step = np.maximum((high - low) / 15, 1e-30)
    zero = np.rint(-low / step)
    plain = (np.clip(np.rint(blocks / step) + zero, 0, 15) - zero) * step
    squares = np.square(_int4_values(found).reshape(-1, 32) - blocks).sum(1)
    rounding = 1e-9 * np.square(blocks).sum(1) + 1e-30
    assert (squares <= np.square(plain - blocks).sum(1) * 1.02 + rounding).all()


def test_int4_beats_q4_0_on_normal_weights() -> None:
    values = _normal()
    errors = [
        np.linalg.norm(_int4_values(found) - values) / np.linalg.norm(values)
        for found in (quantize.int4_blocks(values), quantize.q4_0_blocks(values))
    ]
    assert errors[0] < 0.079 < 0.085 < errors[1] < 0.088


def test_int4_scales_fit_float16_when_asked() -> None:
    values = _normal() * np.float32(1e-9)
    found = quantize.int4_blocks(values, np.float16)
    assert (found.scales > 0).all()
    assert (found.scales == found.scales.astype(np.float16)).all()
    assert np.abs(_int4_values(found) - values).max() <= 2.0**-25 * 1.001


def _ggml_q4_0(block: Floats) -> tuple[list[int], float]:
    """One block, element by element, after the description of the format."""
    largest = np.float32(0)
    for x in block:
        if abs(x) > abs(largest):
            largest = x
    d = largest / np.float32(-8)
    inverse = np.float32(1) / d if d else np.float32(0)
    codes = [min(15, int(np.float32(x * inverse) + np.float32(8.5))) for x in block]
    return codes, float(np.float16(d))


def test_q4_0_is_ggmls() -> None:
    values = np.concatenate([_normal(50, 64), np.zeros((1, 64), np.float32), -np.abs(_normal(3, 64))])
    found = quantize.q4_0_blocks(values)
    for block, codes, scale in zip(
        values.reshape(-1, 32), found.codes.reshape(-1, 32), found.scales.ravel(), strict=True
    ):
        assert (codes.tolist(), float(scale)) == _ggml_q4_0(block)
    assert (found.zeros == 8).all()
    assert (found.scales < 0).any() and (found.scales > 0).any()


def test_scales_of_eight_bits_cost_next_to_nothing() -> None:
    """Beside float16 ones; and no value that `int4_blocks` keeps inside its grid leaves it."""
    values = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
    values[:, :32] *= 20
    values[3] = 0
    blocks, rows = quantize.int4_blocks(values, np.float16), quantize.int4_rows(values)
    scales = rows.steps * rows.scales
    assert rows.steps.min() >= 1 and rows.steps.dtype == np.uint8 and scales.dtype == np.float32
    assert (scales >= quantize.int4_blocks(values).scales * 0.999).all()
    losses = []
    for found, scale in ((blocks, blocks.scales), (rows, scales)):
        steps = found.codes.astype(np.float32) - found.zeros[:, :, None]
        losses.append(np.square((steps * scale[:, :, None]).reshape(values.shape) - values).mean())
    assert losses[1] < 1.03 * losses[0]
    assert (steps[3] == 0).all()


def test_packing() -> None:
    codes = np.arange(6, dtype=np.uint8)[None]
    assert quantize.pack_pairs(codes).tolist() == [[0x10, 0x32, 0x54]]
    assert quantize.pack_pairs(codes[:, :3]).tolist() == [[0x10, 0x02]]
    assert quantize.pack_halves(codes).tolist() == [[0x30, 0x41, 0x52]]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ExportError, match="rows of 33"):
        quantize.int4_blocks(_normal(2, 33))
    with pytest.raises(ExportError, match="float16"):
        quantize.float16(np.array([[1e5]], np.float32))
