"""Stores the table as 4-bit blocks with explicit zero points, and matrices by GGML's rule.

These are multiplied by MatMulNBits (activations int8 inside where the CPU has a kernel for it); the table's
rows are unpacked with standard operators, which every build of ONNX Runtime has.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_export.onnx.graph import MICROSOFT, OnnxGraph
from embedding_export.onnx.storage import output_name
from embedding_export.weights.folding import Weights, row_blocks
from embedding_export.weights.matrices import Matrices
from embedding_export.weights.quantize import (
    BLOCK,
    Int4Blocks,
    Int4Rows,
    pack_halves,
    pack_pairs,
    q4_0_blocks,
)

# MatMulNBits may quantize activations to int8: this is its fastest level.
ACCURACY_LEVEL = 4
# What makes a matrix together, in the order in which MatMulNBits takes it.
_PARTS = ("int4", "scale", "zero")


class Int4:
    """Blocks along the rows. The table's scales have 8 bits, as parts of one per row, or are float16, as
    Q4_0's are."""

    def __init__(self, graph: OnnxGraph, weights: Weights, matrices: Matrices | None) -> None:
        """`matrices` weighs the table's errors; None: everything is quantized by GGML's rule for Q4_0, in
        blocks of 32.
        """
        self._g, self._weights, self._matrices = graph, weights, matrices

    def look_up(self, weight: str, ids: str) -> str:
        g = self._g
        self._store_table(weight)
        codes, zeros = (self._unpacked(f"{weight}:{part}", ids) for part in ("int4", "zero"))
        codes = g.node("Reshape", codes, self._g.ints(0, 0, -1, BLOCK))
        centred = g.node("Sub", codes, g.node("Unsqueeze", zeros, self._g.ints(-1)))
        if self._matrices:
            steps = g.node("Cast", g.node("Gather", f"{weight}:step", ids), to=1)
            scales = g.node("Mul", steps, g.node("Gather", f"{weight}:scale", ids))
        else:
            scales = g.node("Cast", g.node("Gather", f"{weight}:scale", ids), to=1)
        rows = g.node("Mul", centred, g.node("Unsqueeze", scales, self._g.ints(-1)))
        return g.node("Reshape", rows, self._g.ints(0, 0, self._weights.tensors[weight].shape[1]))

    def multiply(self, x: str, weight: str) -> str:
        blocks = q4_0_blocks(self._weights.tensors[weight].array())
        rows, count, _ = blocks.codes.shape
        codes, zeros = pack_pairs(blocks.codes), pack_pairs(blocks.zeros)
        stored: tuple[NDArray[Any], ...] = (codes, blocks.scales, zeros)
        for part, values in zip(_PARTS, stored, strict=True):
            self._g.weight(f"{weight}:{part}", values.dtype, values.shape, [values])
        return self._product(x, weight, (rows, count * BLOCK), output_name(weight))

    def multiply_tokens(self, x: str, weight: str) -> str:
        rows, width = self._weights.tensors[weight].shape
        return self._product(x, weight, (rows, width), None)

    def _product(self, x: str, weight: str, shape: tuple[int, int], out: str | None) -> str:
        return self._g.node(
            "MatMulNBits",
            x,
            *(f"{weight}:{part}" for part in _PARTS),
            out=out,
            domain=MICROSOFT,
            K=shape[1],
            N=shape[0],
            bits=4,
            block_size=BLOCK,
            accuracy_level=ACCURACY_LEVEL,
        )

    def _store_table(self, weight: str) -> None:
        """Codes block by block, zero points and scales for whole rows; each pair of codes shares a byte."""
        table = self._weights.tensors[weight]
        rows, width = table.shape
        zeros: list[NDArray[Any]] = []
        steps: list[NDArray[Any]] = []
        scales: list[NDArray[Any]] = []

        def codes() -> Iterator[NDArray[np.uint8]]:
            for values in row_blocks(table):
                quantized: Int4Blocks | Int4Rows
                if self._matrices:
                    quantized = self._matrices.table(values, BLOCK)
                    steps.append(quantized.steps)
                else:
                    quantized = q4_0_blocks(values)
                zeros.append(pack_halves(quantized.zeros))
                scales.append(quantized.scales)
                yield pack_halves(quantized.codes.reshape(len(values), width))

        self._g.weight(f"{weight}:int4", np.uint8, (rows, width // 2), codes())
        self._g.weight(f"{weight}:zero", np.uint8, (rows, width // BLOCK // 2), zeros)
        if self._matrices:
            self._g.weight(f"{weight}:step", np.uint8, (rows, width // BLOCK), steps)
            self._g.weight(f"{weight}:scale", np.float32, (rows, 1), scales)
        else:
            self._g.weight(f"{weight}:scale", np.float16, (rows, width // BLOCK), scales)

    def _unpacked(self, name: str, ids: str) -> str:
        """The rows of a packed tensor for the ids, float32, low halves of the bytes first."""
        g = self._g
        packed = g.node("Gather", name, ids)
        low = g.node("BitwiseAnd", packed, g.constant(np.array(15, np.uint8)))
        high = g.node("BitShift", packed, g.constant(np.array(4, np.uint8)), direction="RIGHT")
        return g.node("Cast", g.node("Concat", low, high, axis=-1), to=1)
