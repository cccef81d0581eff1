"""`Ops` that emit LiteRT operators for one bucket: one text of a fixed length, no batch.

The operators are chosen so that XNNPACK takes everything behind the token lookup in one piece: heads lie
beside each other within a token, so that one reshape of the queries of a key head gives a plain matrix
product. `litert.storage` stores the matrices and the table.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedding_export.architectures.interface.figures import Figures, Layer
from embedding_export.architectures.interface.ops import DenseStage
from embedding_export.architectures.interface.rope import rope_tables
from embedding_export.litert.file import BOOL, INT32, Signature, Value
from embedding_export.litert.storage import FULLY_CONNECTED_VERSION, LitertStorage
from embedding_export.weights.turning import turn

# Added to the scores of masked keys: two of them still fit float16, and a row with no key stays finite.
NEG = np.float32(-3e4)
# Queries per block where local attention is cut into blocks (64 and 256 are slower by 6 % or more at 1,024
# tokens on two x86 cores).
CHUNK = 128
# Of longer texts so many queries attend at once, and fewer where each sees all keys: at 8,192 tokens the
# scores of a global layer would take 1 GB, the keys and values around a local layer's blocks 0.3 GB.
ATTENDED_AT_ONCE = 2_048
QUERIES_IN_TURN = 256


@dataclass(frozen=True)
class Lengths:
    """A signature's number of tokens, the largest of all signatures, and the id that pads a shorter text."""

    bucket: int
    longest: int
    pad_id: int


@dataclass(frozen=True)
class Names:
    """The names of a file's signatures (`{}` stands for the length), and of their input and output."""

    signature: str
    input: str
    output: str


class LitertOps:
    """Emits the forward pass into `signature`: token ids, int32 [1, S], `pad_id` on the right."""

    def __init__(
        self,
        signature: Signature,
        config: Figures,
        storage: LitertStorage,
        lengths: Lengths,
        names: Names,
    ) -> None:
        self.s, self.config, self._storage, self._names = signature, config, storage, names
        self.length, self._longest = lengths.bucket, lengths.longest
        self._biases: dict[tuple[int | None, int], Value] = {}
        self._turns: dict[tuple[float, int], Value] = {}
        self._tokens = signature.input(names.input, (1, self.length), INT32)
        pad = signature.constant(np.array([lengths.pad_id], np.int32))
        real = signature.op("NOT_EQUAL", [self._tokens, pad], (1, self.length), kind=BOOL)
        self._mask = signature.op("CAST", [real], (1, self.length))

    def embedding(self, weight: str, scale: float) -> Value:
        ids = self._reshape(self._tokens, self.length)
        return self._storage.look_up(self.s, weight, ids, scale)

    def linear(self, x: Value, *weights: str) -> tuple[Value, ...]:
        x = self._storage.evened(self.s, x, weights[0])
        if self._storage.turns(weights[0]):
            x = self._turned(x)
        return tuple(self._storage.multiply(self.s, x, name) for name in weights)

    def linear_beside(self, x: Value, weight: str, beside: Value) -> Value:
        """As `linear`: the engine runs operators in the order of the file."""
        return self.linear(x, weight)[0]

    def rms_norm(self, x: Value, weight: str, before: float = 1.0) -> Value:
        return self._norm(x, weight, 1.0, self.config.rms_norm_eps / before**2)

    def head_norm(self, x: Value, weight: str | None, scale: float, layer: Layer) -> Value:
        heads = self._reshape(x, self.length, -1, layer.head_dim)
        return self._norm(heads, weight, scale, self.config.rms_norm_eps)

    def rope(self, x: Value, layer: Layer) -> Value:
        """Rotates pairs from the halves of each head by 2 x 2 matrices: a product with both rows, and a sum.

        Swapping the halves and adding two products gives the same with more operators. With few tokens the
        number of operators is what costs: the engine's threads wait for one another after each.
        """
        key = layer.rope_theta, layer.head_dim
        if key not in self._turns:
            self._turns[key] = self._turn(*key)
        pairs = self._reshape(x, *x.shape[:2], 1, 2, -1)
        turned = self._reduce("SUM", self._times(pairs, self._turns[key]), 3)
        return self._reshape(turned, *x.shape)

    def attention(self, q: Value, k: Value, v: Value, layer: Layer) -> Value:
        side = self._side(layer.window)
        parts: list[Value] = []
        for first, count in self._in_turn(layer.window, side):
            block, blocks = first // CHUNK, count // CHUNK if side else 1
            queries = self._queries(self._rows(q, first, count), blocks, layer)
            if side or not parts:
                rows = (self._reshape(x, self.length, -1) for x in (k, v))
                keys, values = (self._keys(x, block, blocks, side, layer) for x in rows)
            scores = self._product(queries, keys, transpose=True)  # [blocks, KV, block * group, keys]
            split = self._reshape(scores, *scores.shape[:-2], -1, layer.group, scores.shape[-1])
            weights = self._softmax(self._add(split, self._bias(layer.window, block, blocks, side)))
            out = self._product(self._reshape(weights, *scores.shape), values)
            parts.append(self._join_heads(out, layer))
        return self._concat(parts, 0) if len(parts) > 1 else parts[0]

    def gelu_gate(self, gate: Value, up: Value) -> Value:
        return self._times(self.s.op("GELU", [gate], gate.shape, approximate=True), up)

    def residual(self, x: Value, update: Value, name: str) -> Value:
        return self._add(x, update)

    def scaled(self, x: Value, weight: str) -> Value:
        return self._times(x, self._storage.vector(self.s, weight))

    def token_states(self, x: Value, weight: str) -> Value:
        return x

    def mean_pool(self, x: Value) -> Value:
        total = self._product(self._mask, x)
        count = self._reduce("SUM", self._mask, 1)
        return self._divide(total, count, 1e-9)

    def dense(self, x: Value, stage: DenseStage) -> Value:
        (x,) = self.linear(x, stage.weight)
        if stage.bias is not None:
            x = self._add(x, self._storage.vector(self.s, stage.bias))
        return self.s.op("TANH", [x], x.shape) if stage.activation == "tanh" else x

    def l2_normalize(self, x: Value) -> Value:
        norm = self.s.op("SQRT", [self._reduce("SUM", self._times(x, x), 1)], (x.shape[0], 1))
        return self._divide(x, norm, 1e-12)

    def finish(self, vector: Value) -> None:
        """Name the output."""
        self.s.output(self._names.output, vector)

    def _turned(self, x: Value) -> Value:
        """x [S, channels] with its channels rotated in blocks."""
        matrix = turn(x.shape[-1])
        blocks = self._reshape(x, -1, len(matrix))
        inputs = [blocks, self.s.constant(matrix)]
        turned = self.s.op("FULLY_CONNECTED", inputs, blocks.shape, FULLY_CONNECTED_VERSION["float32"])
        return self._reshape(turned, *x.shape)

    def _norm(self, x: Value, weight: str | None, scale: float, epsilon: float) -> Value:
        square = self._reduce("MEAN", self._times(x, x), len(x.shape) - 1)
        safe = self._add(square, self.s.constant(np.array([epsilon], np.float32)))
        normed = self._times(x, self.s.op("RSQRT", [safe], safe.shape))
        if weight is not None:
            return self._times(normed, self._storage.gain(self.s, weight, scale))
        return normed if scale == 1.0 else self._mul(normed, np.array([scale], np.float32))

    def _side(self, window: int | None) -> int:
        """Blocks on either side that a block's window reaches; 0 where blocks would save nothing."""
        side = -(-window // CHUNK) if window is not None else 0
        return side if (2 * side + 1) * CHUNK < self.length and self.length % CHUNK == 0 else 0

    def _turn(self, theta: float, head_dim: int) -> Value:
        """The rotation of each pair at each position, ((cos, -sin), (sin, cos)): [S, 1, 2, 2, D / 2].

        All buckets take theirs from one table of cosines and one of sines, which keeps the file small.
        """
        shape = (self.length, 1, 1, 1, head_dim // 2)
        tables = rope_tables(theta, head_dim, self._longest)
        cos, sin = (self.s.constant(t[:, None, None, None]) for t in tables)
        if self.length < self._longest:
            first, size = self.s.ints(*[0] * len(shape)), self.s.ints(*shape)
            cos, sin = (self.s.op("SLICE", [t, first, size], shape) for t in (cos, sin))
        minus = self._mul(sin, np.array([-1], np.float32))
        return self._concat([self._concat([cos, minus], 3), self._concat([sin, cos], 3)], 2)

    def _in_turn(self, window: int | None, side: int) -> list[tuple[int, int]]:
        """The first query, and the number of queries, of the parts in which attention is computed."""
        if self.length <= ATTENDED_AT_ONCE or (window is not None and not side):
            return [(0, self.length)]
        most = ATTENDED_AT_ONCE if side else QUERIES_IN_TURN
        return [(first, min(most, self.length - first)) for first in range(0, self.length, most)]

    def _rows(self, x: Value, first: int, count: int) -> Value:
        """Rows of x [S, N, D]."""
        if count == self.length:
            return x
        shape = (count, *x.shape[1:])
        return self.s.op("SLICE", [x, self.s.ints(first, 0, 0), self.s.ints(*shape)], shape)

    def _queries(self, q: Value, blocks: int, layer: Layer) -> Value:
        """[queries, N, D] as [blocks, KV, block * group, D]: queries of one key head stand together."""
        kv, d = layer.kv_heads, layer.head_dim
        if kv == 1:
            return self._reshape(q, blocks, 1, -1, d)
        q = self._reshape(q, blocks, -1, kv, layer.group * d)
        return self._reshape(self._transpose(q, 0, 2, 1, 3), blocks, kv, -1, d)

    def _keys(self, x: Value, first: int, blocks: int, side: int, layer: Layer) -> Value:
        """[S, KV * D] as [blocks, KV, keys, D]: the tokens of each block from the `first` on, and of `side`
        blocks on either side."""
        kv, d = layer.kv_heads, layer.head_dim
        if side:
            x = self._around(x, first, blocks, side)
        if kv == 1:
            return self._reshape(x, blocks, 1, -1, d)
        return self._transpose(self._reshape(x, blocks, -1, kv, d), 0, 2, 1, 3)

    def _around(self, x: Value, first: int, blocks: int, side: int) -> Value:
        """Rows [S, n] as [blocks, keys, n], each block from the `first` on with its neighbours; zeros beyond
        the ends."""
        width = x.shape[1]
        ends = np.array([[side * CHUNK, side * CHUNK], [0, 0]], np.int32)
        padded = self.s.op("PAD", [x, self.s.constant(ends)], (self.length + 2 * side * CHUNK, width))
        cut = self._reshape(padded, -1, CHUNK, width)
        size = self.s.ints(blocks, CHUNK, width)
        return self._concat(
            [
                self.s.op("SLICE", [cut, self.s.ints(first + i, 0, 0), size], (blocks, CHUNK, width))
                for i in range(2 * side + 1)
            ],
            1,
        )

    def _bias(self, window: int | None, first: int, blocks: int, side: int) -> Value:
        """The mask added to scores [blocks, KV, block, group, keys]: 0 where a query attends, else NEG."""
        band = window if window is not None and window < self.length - 1 else None
        key = band, first if side else 0
        if key not in self._biases:
            bias = self._padding_bias(first, blocks, side)
            if band is not None:
                block = CHUNK if side else self.length
                bias = self._add(bias, self.s.constant(_band(block, side * CHUNK, band)))
            self._biases[key] = bias
        return self._biases[key]

    def _padding_bias(self, first: int, blocks: int, side: int) -> Value:
        mask = self._mask
        if side:
            mask = self._around(self._reshape(mask, self.length, 1), first, blocks, side)
        missing = self.s.op("SUB", [self.s.constant(np.ones(1, np.float32)), mask], mask.shape)
        return self._reshape(self._mul(missing, np.array([NEG])), blocks, 1, 1, 1, -1)

    def _join_heads(self, out: Value, layer: Layer) -> Value:
        """[blocks, KV, block * group, D] as [queries, N * D]."""
        if layer.kv_heads > 1:
            out = self._reshape(out, out.shape[0], layer.kv_heads, -1, layer.group * layer.head_dim)
            out = self._transpose(out, 0, 2, 1, 3)
        return self._reshape(out, -1, layer.kv_heads * layer.group * layer.head_dim)

    def _reshape(self, x: Value, *shape: int) -> Value:
        fixed = int(np.prod([n for n in shape if n > 0]))
        full = tuple(int(np.prod(x.shape)) // fixed if n < 0 else n for n in shape)
        return self.s.op("RESHAPE", [x, self.s.ints(*full)], full, kind=x.type, newShape=list(full))

    def _transpose(self, x: Value, *axes: int) -> Value:
        return self.s.op("TRANSPOSE", [x, self.s.ints(*axes)], tuple(x.shape[a] for a in axes))

    def _concat(self, parts: list[Value], axis: int) -> Value:
        shape = list(parts[0].shape)
        shape[axis] = sum(p.shape[axis] for p in parts)
        return self.s.op("CONCATENATION", parts, shape, axis=axis)

    def _product(self, a: Value, b: Value, transpose: bool = False) -> Value:
        shape = (*a.shape[:-1], b.shape[-2] if transpose else b.shape[-1])
        return self.s.op("BATCH_MATMUL", [a, b], shape, adjY=transpose)

    def _softmax(self, x: Value) -> Value:
        return self.s.op("SOFTMAX", [x], x.shape, beta=1.0)

    def _reduce(self, operator: str, x: Value, axis: int) -> Value:
        shape = [1 if i == axis else n for i, n in enumerate(x.shape)]
        return self.s.op(operator, [x, self.s.ints(axis)], shape, keepDims=True)

    def _divide(self, x: Value, by: Value, least: float) -> Value:
        by = self.s.op("MAXIMUM", [by, self.s.constant(np.array([least], np.float32))], by.shape)
        return self.s.op("DIV", [x, by], x.shape)

    def _add(self, a: Value, b: Value) -> Value:
        return self.s.op("ADD", [a, b], np.broadcast_shapes(a.shape, b.shape))

    def _times(self, a: Value, b: Value) -> Value:
        return self.s.op("MUL", [a, b], np.broadcast_shapes(a.shape, b.shape))

    def _mul(self, x: Value, by: NDArray[np.float32]) -> Value:
        return self._times(x, self.s.constant(by))


def _band(block: int, side: int, window: int) -> NDArray[np.float32]:
    """NEG where a block's query and a key are further apart than `window`: [1, 1, block, 1, keys]."""
    query, key = np.arange(block)[:, None], np.arange(block + 2 * side)[None, :] - side
    return np.where(np.abs(query - key) <= window, np.float32(0), NEG)[None, None, :, None, :]
