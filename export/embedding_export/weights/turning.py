"""Rotates channels in blocks to spread outliers, so that 8-bit codes round all channels equally well.

The rotation is its own inverse: rotating the inputs of a matrix, and its rows, changes no product (QuaRot,
arXiv 2404.00456, rotates whole vectors in this way).
"""

import numpy as np
from numpy.typing import NDArray

from embedding_export.architectures.interface.tensors import TURNED_TOGETHER
from embedding_export.weights.folding import Weight

Floats = NDArray[np.float32]


def turn(width: int) -> Floats:
    """The matrix that rotates each block of `width` channels: symmetric, orthogonal, float32 [n, n].

    A Hadamard matrix (Sylvester's construction) over √n; n is TURNED_TOGETHER, or the largest power of two
    below it that divides the width.
    """
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < TURNED_TOGETHER and width % (2 * len(matrix)) == 0:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return np.asarray(matrix / np.sqrt(np.float32(len(matrix))), np.float32)


def turned(values: Floats) -> Floats:
    """Rows [.., channels] with each block of channels rotated."""
    matrix = turn(values.shape[-1])
    return np.asarray((values.reshape(-1, len(matrix)) @ matrix).reshape(values.shape), np.float32)


class TakesTurned:
    """A matrix [out, in] whose inputs are already rotated."""

    def __init__(self, weight: Weight) -> None:
        self._weight = weight

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self._weight.shape

    def rows(self, start: int, stop: int) -> Floats:
        """Rows `start:stop`."""
        return turned(self._weight.rows(start, stop))

    def array(self) -> Floats:
        """The whole tensor."""
        return turned(self._weight.array())


class GivesTurned(TakesTurned):
    """A matrix [out, in] whose outputs are rotated."""

    def rows(self, start: int, stop: int) -> Floats:
        """Rows `start:stop`."""
        return self.array()[start:stop]

    def array(self) -> Floats:
        """The whole tensor."""
        return np.ascontiguousarray(turned(np.ascontiguousarray(self._weight.array().T)).T)
