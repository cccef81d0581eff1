"""A checkpoint's matrices as quantized graphs of both formats store them: balanced, rotated, and rounded.

`audit.read_eight_bits` finds in a written graph what was moved, with code of its own.
"""

from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np

from embedding_export.architectures.interface.figures import Figures
from embedding_export.architectures.interface.tensors import TABLE, Turning, norm_takers
from embedding_export.architectures.registry import tensor_specs
from embedding_export.weights.balancing import Balanced, balance
from embedding_export.weights.calibration import Calibration
from embedding_export.weights.compensation import (
    compensated_int4,
    compensated_int8,
    compensated_rows,
    compensated_symmetric,
)
from embedding_export.weights.folding import Weight, Weights
from embedding_export.weights.quantize import BLOCK, Floats, Int4Rows, Int4Symmetric, Int8Rows, int4_symmetric
from embedding_export.weights.turning import GivesTurned, TakesTurned, turned

_TAKING: tuple[Turning, ...] = ("turned_as_it_runs", "takes_turned")


class Matrices:
    """Rounds each matrix of an encoder by what activations were `seen`; codes are kept, but for
    symmetric 4-bit ones, as several graphs of one export store the same.

    For products of 8 bits channels are balanced and turned. The inputs of down projections are sparse, with
    other channels large for every token: they are turned as a graph runs. Values are turned by their own
    matrix for nothing. Which matrices these are, the architecture says.
    """

    def __init__(self, config: Figures, weights: Weights, seen: Calibration) -> None:
        self._config, self._weights, self.seen = config, weights, seen
        self._turning: dict[str, Turning] = {
            name: spec.turning for name, spec in tensor_specs(config).items() if spec.turning is not None
        }
        self._int8: dict[str, Int8Rows] = {}
        self._int4: dict[str, Int4Rows] = {}

    @cached_property
    def _balanced(self) -> Balanced:
        return balance(self._config, self._weights, self.seen)

    def gains(self, int8: Callable[[str], bool] = lambda name: True) -> Mapping[str, Floats]:
        """The divisors of norms' gains, by the norm's name, for norms whose matrices are `int8`."""
        takers = norm_takers(tensor_specs(self._config))
        return {norm: by for norm, by in self._balanced.gains.items() if int8(takers[norm][0])}

    def inputs(self, weight: str) -> Floats | None:
        """The factors by which an 8-bit graph multiplies a matrix's inputs at run time, float32 [in]; None
        means no factors."""
        factors = self._balanced.unnormed.get(weight)
        return None if factors is None else np.float32(1) / factors

    def int8(self, weight: str) -> Int8Rows:
        """A matrix in 8 bits."""
        if weight not in self._int8:
            self._int8[weight] = compensated_int8(*self._as_it_runs(weight))
        return self._int8[weight]

    def int4(self, weight: str) -> Int4Rows:
        """A matrix in 4 bits with zero points, for products of 8 bits."""
        if weight not in self._int4:
            self._int4[weight] = compensated_int4(*self._as_it_runs(weight), BLOCK)
        return self._int4[weight]

    def int4_symmetric(self, weight: str, block: int) -> Int4Symmetric:
        """A matrix in 4 bits without zero points."""
        return compensated_symmetric(self._weights.tensors[weight].array(), self.seen.moments[weight], block)

    def _as_it_runs(self, weight: str) -> tuple[Floats, Floats]:
        """A matrix as products of 8 bits take it, and the moments of its inputs."""
        moments, columns = self.seen.moments[weight], self._balanced.columns
        if weight in columns:
            moments = moments / np.outer(columns[weight], columns[weight])
        if self._turning.get(weight) in _TAKING:
            moments = turned(np.ascontiguousarray(turned(moments).T))
        matrix = _turned(self._balanced.weights.tensors[weight], self._turning.get(weight))
        return matrix.array(), moments

    def table(self, values: Floats, block: int) -> Int4Rows:
        """Rows of the table in 4 bits with zero points."""
        return compensated_rows(values, self.table_moments, block)

    def symmetric_table(self, values: Floats, block: int) -> Int4Symmetric:
        """Rows of the table in 4 bits without zero points."""
        return int4_symmetric(values, block, self.table_moments.diagonal())

    @cached_property
    def table_moments(self) -> Floats:
        """How much errors of an embedding's channels count, each with each: float32 [hidden, hidden].

        What all matrices behind norms would make of them, each norm's rows being as large as `seen`. The
        diagonal correlates with the mean square derivatives of the vectors (0.85 of the logarithms).
        """
        hidden = self._weights.tensors[TABLE].shape[1]
        moments = np.zeros((hidden, hidden), np.float32)
        for norm, takers in norm_takers(tensor_specs(self._config)).items():
            gain = self._weights.tensors[norm].array()
            for matrix in (self._weights.tensors[t].array() * gain for t in takers):
                moments += matrix.T @ matrix * np.float32(self.seen.inverse_squares[norm])
        return moments

    def turns_input(self, weight: str) -> bool:
        """Whether a matrix in 8 bits takes inputs that the graph rotates."""
        return self._turning.get(weight) == "turned_as_it_runs"

    def stored_name(self, weight: str) -> str:
        """What a file calls a matrix for products of 8 bits: how it is turned is part of the name."""
        turning = self._turning.get(weight)
        if turning in _TAKING:
            return f"{weight}:takes_turned"
        return weight if turning is None else f"{weight}:{turning}"


def _turned(weight: Weight, turning: Turning | None) -> Weight:
    if turning in _TAKING:
        return TakesTurned(weight)
    return weight if turning is None else GivesTurned(weight)
