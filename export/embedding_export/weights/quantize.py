"""Number formats: how float32 weights are rounded to each."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_export.errors import ExportError

INT8_MAX = 127
# The smallest scale: keeps an all-zero row from dividing by zero.
SMALLEST_SCALE = np.float32(1e-30)
FLOAT16_MAX = 65504.0

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Int8Rows:
    """values ≈ codes * scales[:, None]; codes int8 within ±127 [rows, columns], scales float32 [rows]."""

    codes: NDArray[np.int8]
    scales: Floats


def int8_rows(values: Floats) -> Int8Rows:
    """Symmetric int8, one scale per row: its largest magnitude becomes ±127; the error is half a step."""
    largest = np.maximum(values.max(axis=1), -values.min(axis=1))
    scales = np.maximum(largest / np.float32(INT8_MAX), SMALLEST_SCALE)
    codes = np.multiply(values, (np.float32(1) / scales)[:, None])
    np.rint(codes, out=codes)
    np.clip(codes, -INT8_MAX, INT8_MAX, out=codes)
    return Int8Rows(codes.astype(np.int8), scales)


def float16(values: Floats) -> NDArray[np.float16]:
    """Values rounded to float16.

    Raises:
        ExportError: a value that float16 cannot hold.
    """
    largest = float(np.abs(values).max())
    if largest > FLOAT16_MAX:
        raise ExportError(
            f"A weight of magnitude {largest:.3g} does not fit float16 (at most {FLOAT16_MAX:,.0f}). "
            "Export another precision, such as fp32 or int8."
        )
    return values.astype(np.float16)


# Weights that share a scale in the 4-bit formats; GGML's Q4_0 and MatMulNBits agree on it.
BLOCK = 32
# Steps that a weight may lie beyond the ends of its block: grids cover at least the middle three quarters.
MOST_CLIPPED = 3.5
LARGEST_CODE = 15
LARGEST_SIGNED_CODE = 7
# Grids tried for each block, as fractions of its range: a narrower one clips the extremes and rounds the
# rest more finely. Below 0.75 none was ever best for normally distributed weights.
GRID_WIDTHS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
# Blocks quantized at a time: about 1 MB, so that all passes over them stay in a core's cache.
BLOCKS_AT_A_TIME = 8192
_SMALLEST_FLOAT16 = np.float32(2.0**-24)
SMALLEST_NORMAL_FLOAT16 = np.float32(2.0**-14)


@dataclass(frozen=True)
class Int4Blocks:
    """values ≈ (codes - zeros) * scales, block by block along a row.

    codes uint8 0 … 15 [rows, blocks, block]; zeros uint8 0 … 15 and scales float32 [rows, blocks].
    """

    codes: NDArray[np.uint8]
    zeros: NDArray[np.uint8]
    scales: Floats


def int4_blocks(
    values: Floats,
    scale_type: Any = np.float32,
    block: int = BLOCK,
    importance: NDArray[Any] | None = None,
) -> Int4Blocks:
    """The best of `GRID_WIDTHS` for each block by squared error, with a zero point of its own.

    Scales are rounded to `scale_type` before the codes are found. Errors count by their column's
    `importance`, [columns], if given.

    Raises:
        ExportError: rows are no multiple of `block` long.
    """
    blocks = _blocks(values, block)
    parts = [
        _int4(blocks[part], counts, scale_type) for part, counts in _parts(blocks, values.shape, importance)
    ]
    return _assembled(parts, values.shape[0], block)


@dataclass(frozen=True)
class Int4Rows:
    """values ≈ (codes - zeros) * steps * scales: as `Int4Blocks`, scales of blocks in parts of their row's.

    steps uint8 1 … 255 [rows, blocks]; scales float32 [rows, 1].
    """

    codes: NDArray[np.uint8]
    zeros: NDArray[np.uint8]
    steps: NDArray[np.uint8]
    scales: Floats


def int4_rows(values: Floats, block: int = BLOCK, importance: NDArray[Any] | None = None) -> Int4Rows:
    """`int4_blocks` with 8-bit scales, which are rounded up so that no value leaves its grid.

    Raises:
        ExportError: rows are no multiple of `block` long.
    """
    plain = int4_blocks(values, np.float32, block, importance)
    scales = np.maximum(plain.scales.max(axis=1, keepdims=True) / np.float32(255), SMALLEST_SCALE)
    steps = np.clip(np.ceil(plain.scales / scales - np.float32(1e-3)), 1, 255)
    blocks, zeros = values.reshape(plain.codes.shape), plain.zeros[:, :, None]
    codes = np.clip(np.rint(blocks / (steps * scales)[:, :, None] + zeros), 0, LARGEST_CODE)
    return Int4Rows(codes.astype(np.uint8), plain.zeros, steps.astype(np.uint8), scales)


def int4_within_int8(values: Floats, block: int, importance: NDArray[Any]) -> Int4Rows:
    """`int4_blocks` with whole steps so small that (codes - zeros) * steps are 8-bit codes, within ±127:
    products of 8 bits take them as they are, with one scale per row.

    A block's step is the nearest to its best scale, or one beside, by the least squared error; none may clip
    a weight by more than `MOST_CLIPPED` steps, whatever its channel counts.

    Raises:
        ExportError: rows are no multiple of `block` long.
    """
    plain = int4_blocks(values, np.float32, block, importance)
    blocks, zeros = values.reshape(plain.codes.shape), plain.zeros.astype(np.float32)
    most = np.floor(INT8_MAX / np.maximum(zeros, LARGEST_CODE - zeros))  # 8 … 15
    scales = np.maximum((plain.scales / most).max(axis=1, keepdims=True), SMALLEST_SCALE)
    counts = importance.astype(np.float32).reshape(1, -1, block)
    near = np.rint(plain.scales / scales)
    best: tuple[Floats, ...] = ()
    for steps in (np.clip(near + offset, 1, most) for offset in (0, -1, 1)):
        wide = (steps * scales)[:, :, None]
        codes = np.clip(np.rint(blocks / wide + zeros[:, :, None]), 0, LARGEST_CODE)
        errors = np.square((codes - zeros[:, :, None]) * wide - blocks)
        beyond = np.abs(blocks / wide + zeros[:, :, None] - codes).max(axis=2) > MOST_CLIPPED
        tried = (codes, steps, np.where(beyond, np.inf, (errors * counts).sum(axis=2)))
        if best:
            better = tried[2] < best[2]
            for old, new in zip(best, tried, strict=True):
                old[better] = new[better]
        else:
            best = tried
    return Int4Rows(best[0].astype(np.uint8), plain.zeros, best[1].astype(np.uint8), scales)


@dataclass(frozen=True)
class Int4Symmetric:
    """values ≈ codes * scales, block by block along a row; codes int8 -8 … 7 [rows, columns], scales float16
    [rows, blocks], all positive, and such as bfloat16 holds too: XNNPACK rounds them to that."""

    codes: NDArray[np.int8]
    scales: NDArray[np.float16]


def int4_symmetric(values: Floats, block: int, importance: NDArray[Any] | None = None) -> Int4Symmetric:
    """Signed 4 bits without zero points: the best of `GRID_WIDTHS` for each block by squared error.

    Errors count by their column's `importance`, [columns], if given.

    Raises:
        ExportError: rows are no multiple of `block` long.
    """
    blocks = _blocks(values, block)
    parts = [
        _int4_symmetric(blocks[part], counts) for part, counts in _parts(blocks, values.shape, importance)
    ]
    codes, scales = (np.concatenate(p) for p in zip(*parts, strict=True))
    return Int4Symmetric(
        codes.reshape(values.shape).astype(np.int8),
        scales.reshape(len(values), -1).astype(np.float16),
    )


def q4_0_blocks(values: Floats) -> Int4Blocks:
    """GGML's Q4_0, digit by digit: scale = (value of largest magnitude) / -8, code = floor(x / scale + 8.5).

    That is what `…-qat-q4_0-unquantized` checkpoints were trained for. As there the stored scale is rounded
    to float16, after the codes are found (ggml, quantize_row_q4_0_ref). Scales may be negative.

    Raises:
        ExportError: rows are no multiple of 32 long.
    """
    blocks = _blocks(values)
    parts = [_q4_0(blocks[i : i + BLOCKS_AT_A_TIME]) for i in range(0, len(blocks), BLOCKS_AT_A_TIME)]
    return _assembled(parts, values.shape[0], BLOCK)


def bfloat16(values: Floats) -> Floats:
    """Finite values rounded to the nearest with 8 significant bits, ties to even."""
    bits = values.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    return (rounded & np.uint32(0xFFFF0000)).view(np.float32)


def pack_pairs(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two 4-bit codes per byte along the last axis, the earlier one in the low bits; an odd last one has 0
    above it."""
    if codes.shape[-1] % 2:
        codes = np.concatenate([codes, np.zeros_like(codes[..., :1])], axis=-1)
    return np.asarray(codes[..., 0::2] | codes[..., 1::2] << 4, np.uint8)


def pack_halves(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two 4-bit codes per byte along the last axis: its first half in the low bits, its second half in the
    high bits."""
    half = codes.shape[-1] // 2
    return np.asarray(codes[..., :half] | codes[..., half:] << 4, np.uint8)


_Parts = tuple[NDArray[np.uint8], NDArray[np.uint8], Floats]


def _parts(
    blocks: Floats, shape: tuple[int, ...], importance: NDArray[Any] | None
) -> Iterator[tuple[slice, Floats | None]]:
    """Blocks [n, block] of a tensor, some whole rows at a time, with what their errors count."""
    count, block = shape[1] // blocks.shape[1], blocks.shape[1]
    rows = max(1, BLOCKS_AT_A_TIME * BLOCK // block // count)
    counts = None if importance is None else importance.astype(np.float32).reshape(1, count, block)
    for start in range(0, shape[0], rows):
        stop = min(start + rows, shape[0])
        wide = counts if counts is None else np.repeat(counts, stop - start, axis=0).reshape(-1, block)
        yield slice(start * count, stop * count), wide


def _squares(errors: Floats, counts: Floats | None) -> Floats:
    """The sum of squares of each row of errors."""
    if counts is None:
        return np.asarray(np.einsum("ij,ij->i", errors, errors))
    return np.asarray(np.einsum("ij,ij,ij->i", errors, errors, counts))


def _blocks(values: Floats, block: int = BLOCK) -> Floats:
    if values.shape[1] % block:
        raise ExportError(
            f"4-bit blocks are {block} weights long, and a tensor of this checkpoint has rows of "
            f"{values.shape[1]}. Export another precision, such as int8."
        )
    return values.reshape(-1, block)


def _int4_symmetric(blocks: Floats, counts: Floats | None) -> tuple[Floats, Floats]:
    """Codes and scales; a scale is never so small that engines, which want normal numbers, refuse it."""
    largest = np.abs(blocks).max(axis=1)
    codes, scales, least = (np.empty_like(x) for x in (blocks, largest, largest))
    least.fill(np.inf)
    for width in GRID_WIDTHS:
        scale = np.maximum(largest * np.float32(width / LARGEST_SIGNED_CODE), SMALLEST_NORMAL_FLOAT16)
        scale = bfloat16(scale).astype(np.float16).astype(np.float32)
        rounded = np.clip(np.rint(blocks / scale[:, None]), -LARGEST_SIGNED_CODE - 1, LARGEST_SIGNED_CODE)
        errors = rounded * scale[:, None] - blocks
        error = _squares(errors, counts)
        better = error < least
        codes[better], scales[better], least[better] = rounded[better], scale[better], error[better]
    return codes, scales


def _int4(blocks: Floats, counts: Floats | None, scale_type: Any) -> _Parts:
    low = np.minimum(blocks.min(axis=1), 0.0)
    high = np.maximum(blocks.max(axis=1), 0.0)
    best = _grid(blocks, low, high, GRID_WIDTHS[0], scale_type, counts)
    for width in GRID_WIDTHS[1:]:
        candidate = _grid(blocks, low, high, width, scale_type, counts)
        better = candidate[3] < best[3]
        for old, new in zip(best, candidate, strict=True):
            old[better] = new[better]
    return best[0].astype(np.uint8), best[1].astype(np.uint8), best[2]


def _grid(
    blocks: Floats, low: Floats, high: Floats, width: float, scale_type: Any, counts: Floats | None
) -> tuple[Floats, Floats, Floats, Floats]:
    """Codes, zeros, scales and squared errors of the grid that covers the middle `width` of each range."""
    smallest = _SMALLEST_FLOAT16 if scale_type == np.float16 else SMALLEST_SCALE
    scales = np.maximum((high - low) * np.float32(width / LARGEST_CODE), smallest)
    scales = scales.astype(scale_type).astype(np.float32)
    zeros = np.clip(np.rint(LARGEST_CODE / 2 - (low + high) / 2 / scales), 0, LARGEST_CODE)
    codes = blocks * (np.float32(1) / scales)[:, None]
    codes += zeros[:, None]
    np.rint(codes, out=codes)
    np.clip(codes, 0, LARGEST_CODE, out=codes)
    errors = codes - zeros[:, None]
    errors *= scales[:, None]
    errors -= blocks
    return codes, zeros, scales, _squares(errors, counts)


def _q4_0(blocks: Floats) -> _Parts:
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)
    scales = largest / np.float32(-8)
    inverse = np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=scales != 0)
    codes = np.minimum(np.floor(blocks * inverse + np.float32(8.5)), LARGEST_CODE).astype(np.uint8)
    zeros = np.full(len(blocks), 8, np.uint8)
    return codes, zeros, scales[:, 0].astype(np.float16).astype(np.float32)


def _assembled(parts: list[_Parts], rows: int, block: int) -> Int4Blocks:
    codes, zeros, scales = (np.concatenate(p) for p in zip(*parts, strict=True))
    return Int4Blocks(codes.reshape(rows, -1, block), zeros.reshape(rows, -1), scales.reshape(rows, -1))
