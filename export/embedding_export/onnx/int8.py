"""`Ops` with int8 matrix products: uint8 activations, one scale per token; int8 weights, one per output.

The inputs of the down projections are rotated first. The Dense stages stay float32: they see one row per
text, so rounding them would cost more accuracy than all other rounding and save no time.

The row scale of a product is carried along unmultiplied (`Scaled`) and dropped where a norm cancels it. Every
token is quantized by itself, and the input of each rounding is computed in an order that does not depend on
padding or on the other texts of the batch: so a text's vector does not depend on its batch.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from embedding_export.architectures.interface.figures import Layer
from embedding_export.architectures.interface.ops import DenseStage
from embedding_export.architectures.registry import tensor_specs
from embedding_export.onnx.graph import MICROSOFT, OnnxGraph
from embedding_export.onnx.ops import OnnxOps
from embedding_export.onnx.scores import Int8Scores
from embedding_export.onnx.storage import Storage, output_name
from embedding_export.weights import quantize
from embedding_export.weights.balancing import balance_heads
from embedding_export.weights.encoder import Encoder
from embedding_export.weights.folding import Weight, Weights, row_blocks
from embedding_export.weights.matrices import Matrices
from embedding_export.weights.quantize import pack_pairs
from embedding_export.weights.turning import turn
from embedding_runtime.engines.onnx_files.seven_bits import ACTIVATION_ZERO, STEP, STEP_BELOW

# uint8 activations stand for (code - 128) * scale. Unsigned, because that is what engines have fast kernels
# for. What they are rounded by stands in constants with names, so that a runtime may take fewer bits.
CODE_ZERO = 128
# MatMulNBits takes activations as they are.
FLOAT32_LEVEL = 1
# Keeps an all-zero row (a padding token's, say) from dividing by zero; far below any activation.
TINY = 1e-30
# A row scale is left to the head norm only where the mean square of what is normed is surely large against
# the norm's epsilon (1e-6): the scale of a normed row is below 1, so leaving it out can only make epsilon
# count less, and then by less than 1e-6 / (2 * 1e-3).
CANCELS_ABOVE = 1e-3


@dataclass(frozen=True)
class Scaled:
    """A float32 tensor in the graph that still lacks the factors `scales`, each [.., 1]."""

    name: str
    scales: tuple[str, ...] = ()


class Int8:
    """Stores the table as int8 rows and matrices as int8 columns, each with a scale; Dense as float32."""

    def __init__(
        self,
        graph: OnnxGraph,
        weights: Weights,
        matrices: Matrices,
        table: Storage | None = None,
        four_bits: Collection[str] = (),
    ) -> None:
        """`table` stores the table otherwise; the matrices `four_bits` have 4 bits."""
        self._table, self._four_bits = table, frozenset(four_bits)
        self._g, self._weights, self._matrices = graph, weights, matrices
        self._whole: dict[str, str] = {}
        self._zeros = ""
        self._quantized: dict[str, tuple[str, str]] = {}

    def look_up(self, weight: str, ids: str) -> str:
        if self._table:
            return self._table.look_up(weight, ids)
        table, scales = self._weights.tensors[weight], []

        def codes() -> Iterator[NDArray[np.int8]]:
            for block in row_blocks(table):
                rows = quantize.int8_rows(block)
                scales.append(rows.scales)
                yield rows.codes

        stored = self._g.weight(f"{weight}:int8", np.int8, table.shape, codes())
        scale = self._g.weight(f"{weight}:scale", np.float32, (table.shape[0], 1), scales)
        rows = self._g.node("Cast", self._g.node("Gather", stored, ids), to=1)
        return self._g.node("Mul", rows, self._g.node("Gather", scale, ids))

    def multiply(self, x: str, weight: str) -> str:
        """A float32 product, one text at a time: engines sum one row in another order than several."""
        g, values = self._g, self._weights.tensors[weight].array().T
        stored = g.weight(weight, np.float32, values.shape, [values])
        column = g.node("Unsqueeze", x, g.ints(-1))  # [B, in, 1]
        products = g.node("MatMul", g.node("Transpose", stored, perm=[1, 0]), column)  # [B, out, 1]
        return g.node("Squeeze", products, g.ints(-1), out=output_name(weight))

    def multiply_tokens(self, x: str, weight: str) -> str:
        return self._g.node("MatMul", x, weight)

    def quantize(self, x: str, width: int) -> tuple[str, str]:
        """uint8 codes [B, S, width] and scales [B, S, 1] of x, row by row; computed once per x."""
        if x in self._quantized:
            return self._quantized[x]
        g = self._g
        # Two reductions read x twice; |x| would also have to be written.
        step, axis = np.float32(1 / quantize.INT8_MAX), np.array([-1], np.int64)
        above, below = (
            g.node("Mul", g.node(op, x, self._constant(axis), keepdims=0), self._constant(factor, name))
            for op, factor, name in (("ReduceMax", step, STEP), ("ReduceMin", -step, STEP_BELOW))
        )
        # Without the last axis until here: engines work through [.., 1] element by element.
        largest = g.node("Max", above, below, self._constant(np.float32(TINY)))
        scale = g.node("Unsqueeze", largest, g.ints(-1))
        codes = g.node("QuantizeLinear", x, scale, self._zero(scale), axis=-1, block_size=width)
        self._quantized[x] = codes, scale
        return codes, scale

    def evened(self, x: str, weight: str) -> str:
        """x [B, S, in] with its channels scaled for a matrix whose inputs come from no norm."""
        factors = self._matrices.inputs(weight)
        if factors is None:
            return x
        stored = self._g.weight(f"{weight}:inputs", np.float32, factors.shape, [factors])
        return self._g.node("Mul", x, stored)

    def turn(self, x: str, width: int) -> str:
        """x [B, S, width] with its channels rotated in blocks."""
        matrix = turn(width)
        blocks = self._g.node("Reshape", x, self._g.ints(0, 0, -1, len(matrix)))
        turned = self._g.node("MatMul", blocks, self._constant(matrix))
        return self._g.node("Reshape", turned, self._g.ints(0, 0, -1))

    def product(self, codes: str, weight: str) -> str:
        """(codes - 128) @ W.T, without the rows' scales."""
        name = self._matrices.stored_name(weight)
        if weight in self._four_bits:
            return self._four_bit_product(codes, weight, name)
        stored = f"{name}:int8"
        if not self._g.has(stored):
            rows = self._matrices.int8(weight)
            self._g.weight(stored, np.int8, rows.codes.T.shape, [rows.codes.T])
            self._g.weight(f"{name}:scale", np.float32, rows.scales.shape, [rows.scales])
        one = self._constant(np.float32(1))
        operands = (codes, stored, one, f"{name}:scale", self._activation_zero())
        return self._g.node("MatMulIntegerToFloat", *operands, domain=MICROSOFT, out=output_name(weight))

    def _four_bit_product(self, codes: str, weight: str, name: str) -> str:
        """The same sums of whole numbers in float32, with W as 4-bit codes.

        The runtime knows these nodes by their names, and multiplies 8-bit codes in their place
        (`onnx_files.four_bits`): twice as fast, at twice the memory.
        """
        g, blocks = self._g, self._matrices.int4(weight)
        rows, count, block = blocks.codes.shape
        for part, values in (("int4", pack_pairs(blocks.codes)), ("zero", pack_pairs(blocks.zeros))):
            g.weight(f"{name}:{part}", np.uint8, values.shape, [values])
        g.weight(f"{name}:step", np.uint8, blocks.steps.shape, [blocks.steps])
        g.weight(f"{name}:scale", np.float32, (rows,), [blocks.scales])
        if codes not in self._whole:
            wide = g.node("Cast", codes, to=TensorProto.FLOAT, out=f"{codes}:wide")
            zero = self._constant(np.float32(CODE_ZERO))
            self._whole[codes] = g.node("Sub", wide, zero, out=f"{codes}:whole")
        products = g.node(
            "MatMulNBits",
            self._whole[codes],
            f"{name}:int4",
            g.node("Cast", f"{name}:step", to=TensorProto.FLOAT, out=f"{name}:whole"),
            f"{name}:zero",
            out=f"{name}:products",
            domain=MICROSOFT,
            K=count * block,
            N=rows,
            bits=4,
            block_size=block,
            accuracy_level=FLOAT32_LEVEL,
        )
        return g.node("Mul", products, f"{name}:scale", out=output_name(weight))

    def _zero(self, scale: str) -> str:
        """The zero point, in the shape of a scale as QuantizeLinear requires; the same for all rows."""
        if not self._zeros:
            self._zeros = self._g.node("Expand", self._activation_zero(), self._g.node("Shape", scale))
        return self._zeros

    def _activation_zero(self) -> str:
        return self._constant(np.uint8(CODE_ZERO), ACTIVATION_ZERO)

    def _constant(self, value: Any, name: str | None = None) -> str:
        return self._g.constant(np.asarray(value), name)


class Int8Ops:
    """Emits the forward pass with scales; everything else is inherited from `OnnxOps`."""

    def __init__(
        self,
        graph: OnnxGraph,
        encoder: Encoder,
        table: Storage | None = None,
        four_bits: Collection[str] = (),
    ) -> None:
        """`table` stores the table of embeddings, if not as int8; the matrices `four_bits` have 4 bits."""
        self.g, self.config, self.weights = graph, encoder.config, encoder.weights
        self._matrices = encoder.matrices()
        self._int8 = Int8(graph, encoder.weights, self._matrices, table, four_bits)
        heads = balance_heads(encoder.config, self._matrices.seen)
        scores = Int8Scores(graph, self._matrices.seen, heads)
        gains = {**self._matrices.gains(), **heads}
        self._float = OnnxOps(graph, encoder, self._int8, scores, gains)

    def embedding(self, weight: str, scale: float) -> Scaled:
        return Scaled(self._float.embedding(weight, scale))

    def linear(self, x: Scaled, *weights: str) -> tuple[Scaled, ...]:
        """One quantization of x serves all weights."""
        name, width = self._int8.evened(x.name, weights[0]), self.weights.tensors[weights[0]].shape[1]
        if self._matrices.turns_input(weights[0]):
            name = self._int8.turn(name, width)
        codes, scale = self._int8.quantize(name, width)
        return tuple(Scaled(self._int8.product(codes, w), (scale, *x.scales)) for w in weights)

    def linear_beside(self, x: Scaled, weight: str, beside: Scaled) -> Scaled:
        codes, scale = self._int8.quantize(x.name, self.weights.tensors[weight].shape[1])
        return Scaled(self._int8.product(self._float.beside(codes, beside.name), weight), (scale, *x.scales))

    def rms_norm(self, x: Scaled, weight: str, before: float = 1.0) -> Scaled:
        """The scale is multiplied back first: these rows may be small, so epsilon matters."""
        return Scaled(self._float.rms_norm(self._settled(x), weight, before))

    def head_norm(self, x: Scaled, weight: str | None, scale: float, layer: Layer) -> Scaled:
        cancels = weight is not None and self._cancels(weight, layer)
        name = x.name if cancels else self._settled(x)
        return Scaled(self._float.head_norm(name, weight, scale, layer))

    def rope(self, x: Scaled, layer: Layer) -> Scaled:
        return Scaled(self._float.rope(x.name, layer))

    def attention(self, q: Scaled, k: Scaled, v: Scaled, layer: Layer) -> Scaled:
        """Probabilities and values stay float32."""
        return Scaled(self._float.attention(q.name, k.name, self._settled(v), layer))

    def gelu_gate(self, gate: Scaled, up: Scaled) -> Scaled:
        return Scaled(self._float.gelu_gate(self._settled(gate), up.name), up.scales)

    def residual(self, x: Scaled, update: Scaled, name: str) -> Scaled:
        return Scaled(self._float.residual(self._settled(x), self._settled(update), name))

    def scaled(self, x: Scaled, weight: str) -> Scaled:
        return Scaled(self._float.scaled(self._settled(x), weight))

    def token_states(self, x: Scaled, weight: str) -> Scaled:
        return Scaled(self._float.token_states(self._settled(x), weight))

    def mean_pool(self, x: Scaled) -> Scaled:
        return Scaled(self._float.mean_pool(self._settled(x)))

    def dense(self, x: Scaled, stage: DenseStage) -> Scaled:
        return Scaled(self._float.dense(self._settled(x), stage))

    def l2_normalize(self, x: Scaled) -> Scaled:
        return Scaled(self._float.l2_normalize(self._settled(x)))

    def finish(self, hidden: Scaled, vector: Scaled) -> None:
        """Name the graph's outputs."""
        self._float.finish(self._settled(hidden), self._settled(vector))

    def _settled(self, x: Scaled) -> str:
        """The tensor with its pending scales multiplied in."""
        if not x.scales:
            return x.name
        factor, *others = x.scales
        for other in others:
            factor = self.g.node("Mul", factor, other)
        return self.g.node("Mul", x.name, factor)

    def _cancels(self, head_norm: str, layer: Layer) -> bool:
        """Whether the rows that `head_norm` takes are certainly large compared with its epsilon."""
        specs = tensor_specs(self.config)
        matrix = specs[head_norm].matrix
        norm = None if matrix is None else specs[matrix].norm
        if matrix is None or norm is None:
            return False
        tensors = self.weights.tensors
        smallest = _mean_squares(tensors[matrix], tensors[norm], layer.head_dim).min()
        return bool(smallest > CANCELS_ABOVE * self.config.rms_norm_eps / 1e-6)


def _mean_squares(matrix: Weight, norm: Weight, head_dim: int) -> NDArray[np.float32]:
    """Per head, the expected mean square of `matrix` times a normed vector of random direction."""
    expected = np.square(matrix.array() * norm.array()).sum(1)
    return np.asarray(expected.reshape(-1, head_dim).mean(1), np.float32)
