"""A checkpoint's matrices as int8 graphs of both formats store them: balanced, turned, and rounded.

Knows nothing of graphs. `read_eight_bits` finds in a written graph what was moved, by code of its own.
"""

from collections.abc import Callable, Mapping

import numpy as np

from embedding_export.architectures.encoder_config import EncoderConfig
from embedding_export.weights.balancing import balance
from embedding_export.weights.calibration import Calibration
from embedding_export.weights.compensation import compensated_int8
from embedding_export.weights.folding import Weight, Weights
from embedding_export.weights.quantize import Floats, Int8Rows
from embedding_export.weights.turning import GivesTurned, TakesTurned, turned

# The inputs of down projections are sparse, with other channels large for every token: they are turned as a
# graph runs. Values are turned by their own matrix, for nothing.
TURNED_AS_IT_RUNS = ".down_proj.weight"
TAKES_TURNED = (TURNED_AS_IT_RUNS, ".o_proj.weight")
GIVES_TURNED = ".v_proj.weight"


class EightBits:
    """`gains` divides what a norm multiplies by (1 + w), by the norm's name."""

    def __init__(
        self,
        config: EncoderConfig,
        weights: Weights,
        seen: Calibration,
        int8: Callable[[str], bool] = lambda name: True,
    ) -> None:
        """`int8`: which matrices are, by name; others stay as they are."""
        balanced = balance(config, weights, seen, int8)
        self.gains: Mapping[str, Floats] = balanced.gains
        self._moments, self._columns = seen.moments, balanced.columns
        self._tensors: dict[str, Weight] = {
            name: _turned(name, tensor) for name, tensor in balanced.weights.tensors.items()
        }

    def codes(self, weight: str) -> Int8Rows:
        """A matrix, rounded."""
        moments = self._moments[weight]
        if weight in self._columns:
            moments = moments / np.outer(self._columns[weight], self._columns[weight])
        if weight.endswith(TAKES_TURNED):
            moments = turned(np.ascontiguousarray(turned(moments).T))
        return compensated_int8(self._tensors[weight].array(), moments)


def stored_name(weight: str) -> str:
    """What a file calls a matrix's codes: how it is turned is part of the name."""
    if weight.endswith(TAKES_TURNED):
        return f"{weight}:takes_turned"
    return f"{weight}:gives_turned" if weight.endswith(GIVES_TURNED) else weight


def _turned(name: str, weight: Weight) -> Weight:
    if name.endswith(TAKES_TURNED):
        return TakesTurned(weight)
    return GivesTurned(weight) if name.endswith(GIVES_TURNED) else weight
