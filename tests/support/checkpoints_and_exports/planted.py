"""Quantization faults to plant while a graph is written: what the file holds is wrong."""

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from embedding_export.onnx import int4 as onnx_int4
from embedding_export.onnx import int8 as onnx_int8
from embedding_export.weights import matrices, quantize
from embedding_runtime.bundle import Precision

Patch = pytest.MonkeyPatch


def _changed(change: Callable[[Any], Any], functions: tuple[str, ...], shape: tuple[int, int]) -> Any:
    """Plant: what quantizes a tensor of `shape` [rows, columns] gets its result changed."""

    def plant(patch: Patch) -> None:
        for module, name in [
            (m, f) for m in (quantize, onnx_int4, matrices) for f in functions if hasattr(m, f)
        ]:
            true = getattr(module, name)

            def faulty(values: Any, *args: Any, true: Any = true) -> Any:
                found = true(values, *args)
                return change(found) if values.shape == shape else found

            patch.setattr(module, name, faulty)

    return plant


def _swapped_scales(found: Any) -> Any:
    scales = found.scales.copy()
    scales[[0, 1]] = scales[[1, 0]]
    return replace(found, scales=scales)


def _exchanged_scales(found: Any) -> Any:
    """The least and the largest: those of two rows may be nearly the same."""
    scales = found.scales.copy()
    of_rows = np.abs(scales).reshape(len(scales), -1).mean(axis=1)
    ends = [int(of_rows.argmin()), int(of_rows.argmax())]
    scales[ends] = scales[ends[::-1]]
    return replace(found, scales=scales)


def _larger_scales(found: Any) -> Any:
    return replace(found, scales=(found.scales * np.float32(1.1)).astype(found.scales.dtype))


def _unsigned_bytes(found: Any) -> Any:
    """Bytes written as unsigned (code + 128), declared as signed."""
    return replace(found, codes=(found.codes.astype(np.int16) + 128).astype(np.uint8).view(np.int8))


def _without_zeros(found: Any) -> Any:
    return replace(found, zeros=np.zeros_like(found.zeros))


def _swap_nibbles(function: str, module: ModuleType = onnx_int4) -> Callable[[Patch], None]:
    def plant(patch: Patch) -> None:
        true = getattr(module, function)
        patch.setattr(module, function, lambda codes: (true(codes) << 4) | (true(codes) >> 4))

    return plant


UP, TABLE = (96, 64), (4096, 64)
INT8, INT4 = ("int8_rows", "compensated_int8"), ("compensated_int4", "compensated_rows", "q4_0_blocks")
FAULTS: dict[str, tuple[Precision, Callable[[Patch], None]]] = {
    "int8: two rows' scales swapped": ("int8", _changed(_swapped_scales, INT8, UP)),
    "int8: two rows' scales of the table swapped": ("int8", _changed(_swapped_scales, INT8, TABLE)),
    "int8: a tensor's scales x 1.1": ("int8", _changed(_larger_scales, INT8, UP)),
    "int8: unsigned bytes as signed": ("int8", _changed(_unsigned_bytes, INT8, UP)),
    "int8: unsigned bytes as signed in the table": ("int8", _changed(_unsigned_bytes, INT8, TABLE)),
    "int4: two rows' scales swapped": ("int4", _changed(_exchanged_scales, INT4, UP)),
    "int4: two rows' scales of the table swapped": ("int4", _changed(_swapped_scales, INT4, TABLE)),
    "int4: a tensor's scales x 1.1": ("int4", _changed(_larger_scales, INT4, UP)),
    "int4: no zero points": ("int4", _changed(_without_zeros, INT4, UP)),
    "int4: no zero points in the table": ("int4", _changed(_without_zeros, INT4, TABLE)),
    "int8_q4: two rows' scales swapped": ("int8_q4", _changed(_swapped_scales, INT8, UP)),
    "int8_q4: two rows' scales of the table swapped": (
        "int8_q4",
        _changed(_swapped_scales, ("compensated_rows",), TABLE),
    ),
    "int8_q4: nibbles of the table swapped": ("int8_q4", _swap_nibbles("pack_halves")),
    "int4: nibbles swapped": ("int4", _swap_nibbles("pack_pairs", onnx_int8)),
    "int4: nibbles of the table swapped": ("int4", _swap_nibbles("pack_halves")),
}
# The same where a checkpoint was trained for Q4_0.
Q4_0_FAULTS = {name: plant for name, (p, plant) in FAULTS.items() if p == "int4" and "no zero" not in name}
Q4_0_FAULTS["int4: nibbles swapped"] = _swap_nibbles("pack_pairs")
# The same in LiteRT files, whose codes have no zero points.
SYMMETRIC = ("int4_symmetric", "compensated_symmetric")
LITERT_FAULTS: dict[str, tuple[Precision, Callable[[Patch], None]]] = {
    **{name: fault for name, fault in FAULTS.items() if fault[0] == "int8"},
    "int4: two rows' scales swapped": ("int4", _changed(_swapped_scales, SYMMETRIC, UP)),
    "int4: two rows' scales of the table swapped": ("int4", _changed(_swapped_scales, SYMMETRIC, TABLE)),
    "int4: a tensor's scales x 1.1": ("int4", _changed(_larger_scales, SYMMETRIC, UP)),
    "int8_q4: two rows' scales swapped": ("int8_q4", _changed(_swapped_scales, INT8, UP)),
    "int8_q4: two rows' scales of the table swapped": (
        "int8_q4",
        _changed(_swapped_scales, SYMMETRIC, TABLE),
    ),
    "int4: nibbles swapped": ("int4", _swap_nibbles("pack_pairs", quantize)),
}
