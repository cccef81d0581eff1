"""Stored precisions of vectors: float32, int8, uint8, binary, ubinary.

The formulas are those of sentence-transformers 6.2, so vectors quantized by either library may be mixed.
"""

import logging
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.errors import InputError, InputTypeError

VectorPrecision = Literal["float32", "int8", "uint8", "binary", "ubinary"]
PRECISIONS: dict[str, VectorPrecision] = {name: name for name in get_args(VectorPrecision)}
# Fewer vectors than this make ranges that later vectors will often leave.
ENOUGH_VECTORS = 100

_logger = logging.getLogger(__name__)


def check_precision(precision: str | None) -> VectorPrecision:
    """The precision, checked; None means float32.

    Raises:
        InputError: not one of `PRECISIONS`.
    """
    if precision is None:
        return "float32"
    if precision in PRECISIONS:
        return PRECISIONS[precision]
    raise InputError(f"Precision {precision!r} is unknown; expected one of {list(PRECISIONS)}.")


def quantization_ranges(embeddings: NDArray[Any]) -> NDArray[np.float32]:
    """Least and greatest value of each dimension of vectors (N, D): float32 (2, D), for `numpy.save`.

    Raises:
        InputError: fewer than two vectors.
    """
    vectors = np.asarray(embeddings)
    if vectors.ndim != 2 or len(vectors) < 2:
        raise InputError(
            f"Ranges cannot be computed from vectors of shape {vectors.shape}: two vectors (N, D) or more "
            "are needed. Pass ranges or calibration_embeddings made from a representative set."
        )
    return np.stack((vectors.min(axis=0), vectors.max(axis=0))).astype(np.float32)


def quantize_embeddings(
    embeddings: NDArray[Any] | list[Any],
    precision: VectorPrecision,
    ranges: NDArray[Any] | None = None,
    calibration_embeddings: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Vectors (..., D) in another precision.

    int8 and uint8 split the range of each dimension into 256 steps: `ranges` (2, D), else the ranges of
    `calibration_embeddings`, else those of the vectors themselves. binary and ubinary keep the signs, packed
    into ceil(D / 8) bytes, as int8 (less 128) and uint8.

    Raises:
        InputError: an unknown precision, ranges that are not numbers of this shape, or ranges to be taken
            from a single vector.
        InputTypeError: the vectors are already quantized.
    """
    level = check_precision(precision)
    vectors = np.asarray(embeddings)
    if vectors.dtype in (np.int8, np.uint8):
        raise InputTypeError(f"The vectors are {vectors.dtype} already; expected float vectors to quantize.")
    if level == "float32":
        return vectors.astype(np.float32)
    if level in ("binary", "ubinary"):
        bits = np.packbits(vectors > 0, axis=-1)
        return bits if level == "ubinary" else (bits - np.uint8(128)).view(np.int8)
    if ranges is None and calibration_embeddings is None and vectors.ndim == 2 and len(vectors) == 0:
        return vectors.astype(level)
    steps = _steps(vectors, ranges, calibration_embeddings)
    return steps.astype(np.uint8) if level == "uint8" else (steps - 128).astype(np.int8)


def check_ranges(ranges: NDArray[Any], dim: int) -> NDArray[np.float32]:
    """Ranges of vectors of `dim` components, as float32 (2, dim).

    Raises:
        InputError: they are not numbers, or not of this shape.
    """
    if np.asarray(ranges).dtype.kind not in "fiu":
        raise InputError(f"ranges holds {np.asarray(ranges).dtype}; expected numbers of shape (2, D).")
    bounds = np.asarray(ranges, dtype=np.float32)
    if bounds.shape != (2, dim):
        raise InputError(f"ranges has shape {bounds.shape}; expected (2, {dim}) for these vectors.")
    return bounds


def _steps(
    vectors: NDArray[Any], ranges: NDArray[Any] | None, calibration_embeddings: NDArray[Any] | None
) -> NDArray[Any]:
    if ranges is None:
        if calibration_embeddings is None and 1 < len(vectors) < ENOUGH_VECTORS and vectors.ndim == 2:
            _logger.warning(
                "Ranges are computed from %d vectors only; ranges of at least %d are more stable: pass "
                "ranges or calibration_embeddings.",
                len(vectors),
                ENOUGH_VECTORS,
            )
        ranges = quantization_ranges(vectors if calibration_embeddings is None else calibration_embeddings)
    bounds = check_ranges(ranges, vectors.shape[-1])
    width = (bounds[1] - bounds[0]) / 255
    width = np.where(width == 0, np.float32(1), width)
    steps: NDArray[Any] = np.clip(np.floor((vectors - bounds[0]) / width), 0, 255)
    return steps
