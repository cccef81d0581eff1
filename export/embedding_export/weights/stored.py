"""A written graph's weights as any format's reader returns them: values and the grid of their format."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# What a stored matrix's name says of its inputs or outputs, behind a colon.
TAKES_TURNED, GIVES_TURNED = "takes_turned", "gives_turned"
# float16 keeps 11 significant bits, and below 2^-14 multiples of 2^-24.
FLOAT16_STEP = 2.0**-10
FLOAT16_SMALLEST_STEP = 2.0**-24

Array = NDArray[Any]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Grid:
    """Rows as stored: `values` [n, columns]; `step`, `low` and `high` broadcast to them.

    `step` is the distance between neighbouring values that can be stored, 0 if every value can be; `low` and
    `high` are the smallest and largest of them.
    """

    values: Floats
    step: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class StoredWeight:
    """One weight of a graph in the checkpoint's orientation: linears [out, in]."""

    kind: str
    shape: tuple[int, ...]
    grid: Callable[[int, int], Grid]
    release: Callable[[], None] = lambda: None
    """Lets the system drop the graph's pages from memory; arrays stay valid."""
    turned: str = ""
    """How a matrix is turned, by the name that it is stored under."""
    eight_bits: bool = False
    """Whether products take it as 8-bit codes, whatever it is stored as."""

    def rows(self, start: int, stop: int) -> Floats:
        """Rows `start:stop`, dequantized."""
        return self.grid(start, stop).values

    def array(self) -> Floats:
        """The whole tensor, dequantized."""
        return self.rows(0, self.shape[0])


def split_name(stored: str) -> tuple[str, str]:
    """A tensor's canonical name, and how it is rotated, from the name under which it is stored."""
    name, _, turned = stored.partition(":")
    return (name, turned) if turned in (TAKES_TURNED, GIVES_TURNED) else (stored, "")


def plain_weight(values: Array) -> StoredWeight:
    """Values that are stored as they are, float32 or float16."""
    half = values.dtype == np.float16
    infinite = np.full(1, np.inf, np.float32)

    def grid(start: int, stop: int) -> Grid:
        wide = values[start:stop].astype(np.float32)
        step = np.maximum(np.abs(wide) * FLOAT16_STEP, FLOAT16_SMALLEST_STEP) if half else np.zeros(1)
        return Grid(wide, step.astype(np.float32), -infinite, infinite)

    return StoredWeight(str(values.dtype), values.shape, grid)


def int8_weight(codes: Array, scales: Array) -> StoredWeight:
    """Symmetric int8 codes [rows, columns] with one scale per row."""
    scales = scales.reshape(-1, 1)

    def grid(start: int, stop: int) -> Grid:
        step = scales[start:stop].astype(np.float32)
        return Grid(codes[start:stop].astype(np.float32) * step, step, -127 * step, 127 * step)

    return StoredWeight("int8", codes.shape, grid, eight_bits=True)
