"""Attention scores as int8 products: queries uint8, keys int8, one static scale each.

Norms bound the heads of queries and keys, so nothing has to be measured while the graph runs. A few channels
of trained keys are far larger than the others; `balancing` first moves part of them to the queries. Integer
sums are exact: a score does not depend on how an engine splits the product, and so not on the other texts of
the batch.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from embedding_export.onnx.graph import MICROSOFT, OnnxGraph
from embedding_export.weights import quantize
from embedding_export.weights.calibration import Calibration
from embedding_runtime.engines.onnx_files.seven_bits import KEY_ZERO

Floats = NDArray[np.float32]

# uint8 stands for (code - 128) * scale. Unsigned on one side, because that is what engines have fast kernels
# for.
QUERY_ZERO = 128
# Room above the largest magnitude that calibration saw; what lies beyond is cut off.
ROOM = 1.05
# Keeps the scale of heads that are all zeros from being zero.
TINY = 1e-30


class Int8Scores:
    """Emits the products of queries and keys, using the largest values of normed heads."""

    def __init__(self, graph: OnnxGraph, seen: Calibration, gains: Mapping[str, Floats]) -> None:
        """`seen` gives the largest values of heads before `gains` divides them, by the norms' names."""
        self._g, self._seen, self._gains = graph, seen, gains
        self._largest: dict[str, float] = {}

    def normed(self, heads: str, norm: str) -> None:
        """Note that `heads` is the output of the head norm `norm`."""
        pairs = self._seen.heads[norm].largest
        self._largest[heads] = float((pairs / self._gains[norm][: len(pairs)]).max())

    def turned(self, heads: str, before: str) -> None:
        """Note that `heads` is `before` after RoPE."""
        self._largest[heads] = self._largest[before]

    def quantized(self, q: str, k: str) -> tuple[str, str]:
        """Codes of queries (uint8) and keys (int8)."""
        codes = (
            self._g.node("QuantizeLinear", x, self._scale(x), zero)
            for x, zero in zip((q, k), self._zeros(), strict=True)
        )
        return next(codes), next(codes)

    def product(self, codes: tuple[str, str], q: str, k: str) -> str:
        """The scores, float32: the product of `codes`, laid out for MatMul, of the queries q and keys k."""
        operands = (*codes, self._scale(q), self._scale(k), *self._zeros())
        return self._g.node("MatMulIntegerToFloat", *operands, domain=MICROSOFT)

    def _zeros(self) -> tuple[str, str]:
        """The zero points of queries and keys. The latter has a name, so that a runtime may take another."""
        query, key = np.array(QUERY_ZERO, np.uint8), np.array(0, np.int8)
        return self._g.constant(query), self._g.constant(key, KEY_ZERO)

    def _scale(self, heads: str) -> str:
        largest = ROOM * self._largest[heads] / quantize.INT8_MAX
        return self._g.constant(np.array(max(largest, TINY), np.float32))
