"""How an ONNX graph stores matrices and the table, and the nodes that use them.

A storage looks rows up and multiplies. Stored tensors are called `<canonical name>`, or `<canonical
name>:<part>` where several parts make one tensor; `onnx.reader` reads them back.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedding_export.onnx.graph import OnnxGraph
from embedding_export.weights import quantize
from embedding_export.weights.folding import Weights, row_blocks

Array = NDArray[Any]


class Storage(Protocol):
    """One way to store the large tensors of a graph."""

    def look_up(self, weight: str, ids: str) -> str:
        """Rows of the table `weight` for ids [B, S]: float32 [B, S, H]."""

    def multiply(self, x: str, weight: str) -> str:
        """`x @ W.T` for float32 x [.., in] and W [out, in]: float32 [.., out], named as the weight."""

    def multiply_tokens(self, x: str, weight: str) -> str:
        """As `multiply`, for tokens [B, S, in] and a weight that `multiply` has already stored; the output
        has no name of its own."""


class Float32:
    """Stores everything as float32."""

    def __init__(self, graph: OnnxGraph, weights: Weights) -> None:
        self._g, self._weights = graph, weights

    def look_up(self, weight: str, ids: str) -> str:
        table = self._weights.tensors[weight]
        self._g.weight(weight, np.float32, table.shape, row_blocks(table))
        return self._g.node("Gather", weight, ids)

    def multiply(self, x: str, weight: str) -> str:
        values = self._weights.tensors[weight].array().T
        self._g.weight(weight, np.float32, values.shape, [values])
        return self._g.node("MatMul", x, weight, out=output_name(weight))

    def multiply_tokens(self, x: str, weight: str) -> str:
        return self._g.node("MatMul", x, weight)


class Float16:
    """Matrices and table in float16, widened before use.

    ONNX Runtime widens the matrices once, when it loads the graph, and only those rows of the table that are
    looked up.
    """

    def __init__(self, graph: OnnxGraph, weights: Weights) -> None:
        self._g, self._weights = graph, weights

    def look_up(self, weight: str, ids: str) -> str:
        table = self._weights.tensors[weight]
        blocks = (quantize.float16(b) for b in row_blocks(table))
        stored = self._g.weight(weight, np.float16, table.shape, blocks)
        return self._g.node("Cast", self._g.node("Gather", stored, ids), to=1)

    def multiply(self, x: str, weight: str) -> str:
        values = quantize.float16(self._weights.tensors[weight].array()).T
        stored = self._g.weight(weight, np.float16, values.shape, [values])
        return self._g.node("MatMul", x, self._g.node("Cast", stored, to=1), out=output_name(weight))

    def multiply_tokens(self, x: str, weight: str) -> str:
        return self._g.node("MatMul", x, self._g.node("Cast", weight, to=1))


def output_name(weight: str) -> str:
    """The name of a matrix product's output."""
    return weight.removesuffix(".weight")
