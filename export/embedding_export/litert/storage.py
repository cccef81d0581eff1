"""How a LiteRT file stores matrices, the table and vectors, and the operators that use them.

A storage looks rows up and multiplies; it is called once per signature. Stored tensors carry their canonical
names; `litert.reader` reads them back.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_export.litert.file import LitertFile, Signature, Stored, Value
from embedding_export.weights import quantize
from embedding_export.weights.folding import Weights, row_blocks
from embedding_export.weights.matrices import Matrices
from embedding_export.weights.precisions import LitertFormat

# The first version of each operator that takes a table or matrix of this kind. For 4 bits in blocks the
# versions are higher than the format asks: runtimes that lack them (before 2.1.6) take blocks without a word
# and give wrong vectors, so they are made to refuse the file.
LOOKUP_VERSION = {"float32": 1, "int8": 4, "int4": 5}
FULLY_CONNECTED_VERSION = {"float32": 6, "int8": 12, "int4": 14}


class LitertStorage:
    """Stores each weight once, in the format that `formats` gives it by its canonical name."""

    def __init__(
        self,
        file: LitertFile,
        weights: Weights,
        formats: Callable[[str], LitertFormat],
        matrices: Matrices | None = None,
    ) -> None:
        """`matrices` gives the codes of the matrices that are not float32."""
        self._file, self._weights, self._formats, self._matrices = file, weights, formats, matrices
        self._gains = matrices.gains(lambda name: formats(name).type == "int8") if matrices else {}
        self._stored: dict[str, Stored] = {}

    def look_up(self, signature: Signature, weight: str, ids: Value, scale: float) -> Value:
        """Rows of the table for ids, int32 [S], times `scale`: float32 [S, H].

        An int8 table's scales are a table of their own: if they were quantization parameters, every signature
        would keep a copy of them in memory.
        """
        stored, factor = self._table(weight), signature.constant(np.array([scale], np.float32))
        version = LOOKUP_VERSION[self._formats(weight).type]
        rows = signature.look_up(ids, stored, version)
        if f"{weight}:scale" in self._stored:
            scales = signature.look_up(ids, self._stored[f"{weight}:scale"], LOOKUP_VERSION["float32"])
            factor = signature.op("MUL", [scales, factor], scales.shape)
        return signature.op("MUL", [rows, factor], rows.shape)

    def turns(self, weight: str) -> bool:
        """Whether a matrix takes inputs that the graph rotates."""
        int8 = self._formats(weight).type == "int8"
        return int8 and self._matrices is not None and self._matrices.turns_input(weight)

    def evened(self, signature: Signature, x: Value, weight: str) -> Value:
        """x [S, in] with its channels scaled for a matrix whose inputs come from no norm."""
        factors = self._matrices.inputs(weight) if self._matrices else None
        if factors is None:
            return x
        name = f"{weight}:inputs"
        if name not in self._stored:
            self._stored[name] = self._vector(name, factors)
        return signature.op("MUL", [x, signature.use(self._stored[name])], x.shape)

    def multiply(self, signature: Signature, x: Value, weight: str) -> Value:
        """`x @ W.T` for float32 x [S, in] and W [out, in]: float32 [S, out]."""
        stored = self._matrix(weight)
        shape = (x.shape[0], stored.shape[0])
        version = FULLY_CONNECTED_VERSION[self._formats(weight).type]
        inputs = [x, signature.use(stored)]
        return signature.op("FULLY_CONNECTED", inputs, shape, version, keepNumDims=True)

    def gain(self, signature: Signature, weight: str, scale: float) -> Value:
        """A norm's gain times `scale`, float32."""
        if weight not in self._stored:
            values = self._weights.tensors[weight].array() * np.float32(scale)
            self._stored[weight] = self._vector(weight, values / self._gains.get(weight, np.float32(1)))
        return signature.use(self._stored[weight])

    def vector(self, signature: Signature, weight: str) -> Value:
        """A bias, float32."""
        if weight not in self._stored:
            self._stored[weight] = self._vector(weight, self._weights.tensors[weight].array())
        return signature.use(self._stored[weight])

    def _vector(self, name: str, values: NDArray[np.float32]) -> Stored:
        return self._file.weight(name, np.float32, values.shape, [values])

    def _matrix(self, weight: str) -> Stored:
        if weight not in self._stored:
            kind = self._formats(weight)
            if kind.type == "float32":
                tensor = self._weights.tensors[weight]
                stored = self._file.weight(weight, np.float32, tensor.shape, row_blocks(tensor))
            else:
                stored = self._int8(weight) if kind.type == "int8" else self._int4(weight, kind.block)
            self._stored[weight] = stored
        return self._stored[weight]

    def _table(self, weight: str) -> Stored:
        if weight in self._stored or self._formats(weight).type != "int8":
            return self._matrix(weight)
        tensor, scales = self._weights.tensors[weight], []

        def codes() -> Iterator[NDArray[np.int8]]:
            for block in row_blocks(tensor):
                rows = quantize.int8_rows(block)
                scales.append(rows.scales)
                yield rows.codes

        stored = self._file.weight(weight, np.int8, tensor.shape, codes())
        self._stored[weight] = replace(stored, scales=np.ones(1, np.float32))
        name = f"{weight}:scale"
        self._stored[name] = self._vector(name, np.concatenate(scales)[:, None])
        return self._stored[weight]

    def _int8(self, weight: str) -> Stored:
        assert self._matrices is not None
        rows = self._matrices.int8(weight)
        stored = self._file.weight(
            self._matrices.stored_name(weight), np.int8, rows.codes.shape, [rows.codes]
        )
        return replace(stored, scales=rows.scales)

    def _int4(self, weight: str, block: int) -> Stored:
        """Codes, and beside them a tensor of float16 scales [rows, blocks].

        Blocks are halved until they fill the rows.
        """
        assert self._matrices is not None
        matrices, tensor = self._matrices, self._weights.tensors[weight]
        rows, width = tensor.shape
        while width % block and block > quantize.BLOCK:
            block //= 2
        scales: list[NDArray[Any]] = []

        def rounded() -> Iterator[quantize.Int4Symmetric]:
            if weight in matrices.seen.moments:
                yield matrices.int4_symmetric(weight, block)
            else:
                yield from (matrices.symmetric_table(values, block) for values in row_blocks(tensor))

        def codes() -> Iterator[NDArray[np.uint8]]:
            for blocks in rounded():
                scales.append(blocks.scales)
                yield quantize.pack_pairs(blocks.codes.view(np.uint8) & np.uint8(15))

        stored = self._file.int4(weight, (rows, width), codes())
        stored_scales = self._file.weight(f"{weight}:scale", np.float16, (rows, width // block), scales)
        return replace(stored, scales=stored_scales, block=block)
