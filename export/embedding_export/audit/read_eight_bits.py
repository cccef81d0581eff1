"""Reads from a written graph which channels were scaled and which matrices were rotated before rounding.

It relies on what `balancing` and `turning` document, but shares no code with them. Scale factors are powers
of two; they are read from the norm that makes the channels, and the matrices that take those channels must
show them too. A matrix's name in the file says how it was rotated; the rotation is implemented here a second
time.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedding_export.architectures.interface.tensors import Specs
from embedding_export.weights.folding import Weight
from embedding_export.weights.stored import GIVES_TURNED, TAKES_TURNED, StoredWeight

Floats = NDArray[np.float32]

# Channels that are turned together, where the width can be divided so.
BLOCK = 16


@dataclass(frozen=True)
class Moved:
    """A checkpoint's matrix as a graph should hold it: its columns are multiplied, then rotated."""

    weight: Weight
    columns: Floats
    turned: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.weight.shape

    def rows(self, start: int, stop: int) -> Floats:
        """Rows `start:stop`."""
        return self.array()[start:stop]

    def array(self) -> Floats:
        """The whole tensor."""
        return straight(self.weight.array() * self.columns, self.turned)


def turning(width: int) -> Floats:
    """A block's rotation: entry (i, j) is (-1)^(ones common to i and j) / √n, float32 [n, n]."""
    n = min(BLOCK, width & -width)
    common = np.arange(n)[:, None] & np.arange(n)
    ones = np.array([int(c).bit_count() for c in common.ravel()]).reshape(n, n)
    return np.asarray((1 - 2 * (ones % 2)) / np.sqrt(n), np.float32)


def straight(values: Floats, turned: str) -> Floats:
    """A matrix [out, in] with its rotation undone; the rotation is its own inverse."""
    if turned == GIVES_TURNED:
        return np.ascontiguousarray(straight(np.ascontiguousarray(values.T), TAKES_TURNED).T)
    if turned != TAKES_TURNED:
        return values
    matrix = turning(values.shape[-1])
    return np.asarray((values.reshape(-1, len(matrix)) @ matrix).reshape(values.shape), np.float32)


def read_norm_factors(stored: Mapping[str, StoredWeight], name: str, gain: Floats) -> Floats:
    """The powers of two by which a norm's `gain` was divided; 1 where the ratio is not a power of two."""
    if name not in stored or stored[name].shape != gain.shape:
        return np.ones_like(gain)
    stored_gain = stored[name].array()
    ratio = np.divide(gain, stored_gain, out=np.ones_like(gain), where=(stored_gain != 0) & (gain != 0))
    return np.where(np.frexp(ratio)[0] == 0.5, ratio, np.float32(1))


def read_head_factors(stored: Mapping[str, StoredWeight], name: str, gain: Floats) -> Floats:
    """The powers of two by which the queries' norm `name` was divided; the keys' norm must be multiplied by
    them. Channels that RoPE rotates together share one."""
    factors = read_norm_factors(stored, name, gain)
    a, b = np.split(factors, 2)
    return factors if np.array_equal(a, b) else np.ones_like(gain)


def read_input_factors(stored: Mapping[str, StoredWeight], name: str) -> Floats:
    """The factors by which the graph multiplies the inputs of the matrix `name`, float32 [in] or [1]."""
    factors = stored.get(f"{name}:inputs")
    return np.ones(1, np.float32) if factors is None else factors.array()


def wrong_input_factors(stored: Mapping[str, StoredWeight], name: str, width: int) -> str:
    """What is wrong with these factors, in words: they must be positive powers of two, one for each input."""
    factors = read_input_factors(stored, name)
    if factors.shape not in ((1,), (width,)):
        return f"has shape {factors.shape}, expected {(width,)}"
    return "" if (np.frexp(factors)[0] == 0.5).all() else "is not made of powers of two"


def moved_as_stored(
    stored: Mapping[str, StoredWeight], tensors: Mapping[str, Weight], specs: Specs
) -> dict[str, Weight]:
    """The matrices that are multiplied in 8 bits, as this graph should hold them by its norms' factors."""
    matrices: dict[str, Weight] = {}
    for name, spec in specs.items():
        if spec.role == "matrix" and name in stored and stored[name].eight_bits:
            columns = np.ones(1, np.float32)
            if spec.norm is not None:
                columns = read_norm_factors(stored, spec.norm, tensors[spec.norm].array())
            elif spec.unnormed:
                columns = np.float32(1) / read_input_factors(stored, name)
            matrices[name] = Moved(tensors[name], columns, stored[name].turned)
    return matrices
