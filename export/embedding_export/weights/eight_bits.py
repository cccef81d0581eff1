"""A checkpoint's matrices as int8 graphs of both formats store them: balanced, turned, and rounded.

Knows nothing of graphs. `read_eight_bits` finds in a written graph what was moved, by code of its own.
"""

from collections.abc import Callable, Mapping

import numpy as np

from embedding_export.architectures.interface.figures import Figures
from embedding_export.architectures.interface.tensors import Turning
from embedding_export.architectures.registry import tensor_specs
from embedding_export.weights.balancing import balance
from embedding_export.weights.calibration import Calibration
from embedding_export.weights.compensation import compensated_int8
from embedding_export.weights.folding import Weight, Weights
from embedding_export.weights.quantize import Floats, Int8Rows
from embedding_export.weights.turning import GivesTurned, TakesTurned, turned

_TAKING: tuple[Turning, ...] = ("turned_as_it_runs", "takes_turned")


class EightBits:
    """`gains` divides what a norm multiplies by, by the norm's name; `inputs` multiplies what a matrix takes
    that has no norm before it, by the matrix.

    The inputs of down projections are sparse, with other channels large for every token: they are turned as a
    graph runs. Values are turned by their own matrix, for nothing. Which matrices these are, the architecture
    says.
    """

    def __init__(
        self,
        config: Figures,
        weights: Weights,
        seen: Calibration,
        int8: Callable[[str], bool] = lambda name: True,
    ) -> None:
        """`int8`: which matrices are, by name; others stay as they are."""
        self._turning: dict[str, Turning] = {
            name: spec.turning for name, spec in tensor_specs(config).items() if spec.turning is not None
        }
        balanced = balance(config, weights, seen, int8)
        self.gains: Mapping[str, Floats] = balanced.gains
        self.inputs = {name: np.float32(1) / factors for name, factors in balanced.unnormed.items()}
        self._moments, self._columns = seen.moments, balanced.columns
        self._tensors: dict[str, Weight] = {
            name: _turned(tensor, self._turning.get(name))
            for name, tensor in balanced.weights.tensors.items()
        }

    def codes(self, weight: str) -> Int8Rows:
        """A matrix, rounded."""
        moments = self._moments[weight]
        if weight in self._columns:
            moments = moments / np.outer(self._columns[weight], self._columns[weight])
        if self._turning.get(weight) in _TAKING:
            moments = turned(np.ascontiguousarray(turned(moments).T))
        return compensated_int8(self._tensors[weight].array(), moments)

    def turns_input(self, weight: str) -> bool:
        """Whether a matrix takes inputs that the graph turns."""
        return self._turning.get(weight) == "turned_as_it_runs"

    def stored_name(self, weight: str) -> str:
        """What a file calls a matrix's codes: how it is turned is part of the name."""
        turning = self._turning.get(weight)
        if turning in _TAKING:
            return f"{weight}:takes_turned"
        return weight if turning is None else f"{weight}:{turning}"


def _turned(weight: Weight, turning: Turning | None) -> Weight:
    if turning in _TAKING:
        return TakesTurned(weight)
    return weight if turning is None else GivesTurned(weight)
