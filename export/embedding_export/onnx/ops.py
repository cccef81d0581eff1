"""`Ops` that emit ONNX nodes for ONNX Runtime; all arithmetic outside matrix products is float32.

An `onnx.storage.Storage` stores and multiplies matrices and the table. Besides standard operators the graph
uses three that every build of ONNX Runtime has, web builds included: `SimplifiedLayerNormalization`
(RMSNorm), and `RotaryEmbedding` and `Gelu` in their long-standing forms.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from embedding_export.architectures.interface.figures import Layer
from embedding_export.architectures.interface.ops import DenseStage
from embedding_export.architectures.interface.rope import rope_frequencies, rope_tables
from embedding_export.onnx.graph import MICROSOFT, OnnxGraph
from embedding_export.onnx.scores import Int8Scores
from embedding_export.onnx.storage import Storage
from embedding_export.weights.encoder import Encoder

# Added to the scores of masked keys: far below any score, yet finite, so that a row with no key at all stays
# finite.
NEG = np.float32(-1e9)
# Up to this many tokens, and up to two windows, one block is fastest, beyond it blocks of CHUNK queries
# (measured on two x86 cores: 64 and 256 are within 7 % of 128).
BLOCK_LOCAL_ABOVE = 512
CHUNK = 128


# Positions times head dimension up to which rotations are stored (2 MB for each kind of layer): computing
# them costs some 10 ns for each angle.
STORED_ROTATIONS = 2_048 * 256
# Graphs for longer texts attend in blocks one after the other: at 8,192 tokens the scores of a global layer
# would take 1 GB at once.
ATTENDED_AT_ONCE = 2_048
# Tokens that mean pooling sums as one run.
POOLED_RUN = 64


class OnnxOps:
    """Emits the forward pass into `graph`; the inputs are `input_ids` and `attention_mask`, int64 [B, S]."""

    def __init__(
        self,
        graph: OnnxGraph,
        encoder: Encoder,
        storage: Storage,
        int8_scores: Int8Scores | None = None,
        gains: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> None:
        """`int8_scores` also cuts long inputs into blocks of exactly CHUNK tokens, so that no sum depends on
        their length. It is for storages that round activations: rounding amplifies a different last digit.
        `gains` divides the norms' gains (see `balancing`).
        """
        self.g, self._storage = graph, storage
        self.config, self.weights = encoder.config, encoder.weights
        self._positions = _positions(encoder.max_seq_length, encoder.config.window)
        self._int8_scores, self._gains = int8_scores, gains or {}
        self._in_turn = encoder.max_seq_length > ATTENDED_AT_ONCE
        self._blocks = _Blocks(graph, encoder.config.window, whole=int8_scores is not None)
        self._biases: dict[int | None, str] = {}
        self._shapes: dict[Layer, tuple[str, str]] = {}
        self._computed: dict[tuple[float, int], tuple[str, str]] = {}
        self._bias_of_blocks = ""
        self._token_mask = graph.node("Cast", self._blocks.mask, to=1)
        if not encoder.include_prompt:  # tokens of a prompt have 2 in the mask: attention alone reads them
            pooled = self.g.node("Equal", self._blocks.mask, self.g.ints(1))
            self._token_mask = self.g.node("Cast", pooled, to=1)

    def embedding(self, weight: str, scale: float) -> str:
        rows = self._storage.look_up(weight, self._blocks.ids)
        return self.g.node("Mul", rows, self._float(scale), out="embeddings")

    def linear(self, x: str, *weights: str) -> tuple[str, ...]:
        return tuple(self._storage.multiply(x, name) for name in weights)

    def linear_beside(self, x: str, weight: str, beside: str) -> str:
        return self._storage.multiply(self.beside(x, beside), weight)

    def beside(self, x: str, other: str) -> str:
        """x, which the engine cannot use before it has computed `other` of the same shape; no copy."""
        return self.g.node("Reshape", x, self.g.node("Shape", other))

    def rms_norm(self, x: str, weight: str, before: float = 1.0) -> str:
        return self._norm(x, weight, 1.0, self.config.rms_norm_eps / before**2)

    def head_norm(self, x: str, weight: str | None, scale: float, layer: Layer) -> str:
        heads = self.g.node("Reshape", x, self.g.ints(0, 0, -1, layer.head_dim))
        if weight is None:
            gain = self.g.constant(np.full(layer.head_dim, scale, np.float32))
            normed = self._normed(heads, gain, self.config.rms_norm_eps)
        else:
            normed = self._norm(heads, weight, scale, self.config.rms_norm_eps)
        joined = self.g.node("Reshape", normed, self.g.ints(0, 0, -1))
        if self._int8_scores and weight is not None:
            self._int8_scores.normed(joined, weight)
        return joined

    def rope(self, x: str, layer: Layer) -> str:
        tables = self._rotations(layer.rope_theta, layer.head_dim)
        turned = self.g.node("RotaryEmbedding", x, self.g.ints(0), *tables, domain=MICROSOFT)
        if self._int8_scores:
            self._int8_scores.turned(turned, x)
        return turned

    def attention(self, q: str, k: str, v: str, layer: Layer) -> str:
        if self._in_turn:
            return self._attend_in_turn(q, k, v, layer)
        if self._int8_scores:
            codes = self._scored(*self._int8_scores.quantized(q, k), layer)
            return self._attend(self._int8_scores.product(codes, q, k), v, layer)
        return self._attend(self.g.node("MatMul", *self._scored(q, k, layer)), v, layer)

    def gelu_gate(self, gate: str, up: str) -> str:
        return self.g.node("Mul", self.g.node("Gelu", gate, approximate="tanh"), up)

    def residual(self, x: str, update: str, name: str) -> str:
        return self.g.node("Add", x, update, out=name)

    def scaled(self, x: str, weight: str) -> str:
        return self.g.node("Mul", x, self._vector(weight))

    def token_states(self, x: str, weight: str) -> str:
        return self._storage.multiply_tokens(x, weight)

    def mean_pool(self, x: str) -> str:
        """The mean over tokens, zero-padded to whole runs: an engine's sums then do not depend on S."""
        g = self.g
        length = g.node("Shape", x, start=1, end=2)
        missing = g.node("Mod", g.node("Neg", length), g.ints(POOLED_RUN))  # of the divisor's sign: 0 and up
        zeros = g.ints(0)
        x = g.node("Pad", x, g.node("Concat", g.ints(0, 0, 0, 0), missing, zeros, axis=0))  # [B, S', H]
        mask = g.node("Pad", self._token_mask, g.node("Concat", g.ints(0, 0, 0), missing, axis=0))  # [B, S']
        total = g.node("Squeeze", g.node("MatMul", g.node("Unsqueeze", mask, g.ints(1)), x), g.ints(1))
        count = g.node("ReduceSum", self._token_mask, self.g.ints(1), keepdims=1)
        return g.node("Div", total, g.node("Max", count, self._float(1e-9)), out="mean_pooling")

    def dense(self, x: str, stage: DenseStage) -> str:
        x = self._storage.multiply(x, stage.weight)
        if stage.bias is not None:
            x = self.g.node("Add", x, self._vector(stage.bias))
        return self.g.node("Tanh", x) if stage.activation == "tanh" else x

    def l2_normalize(self, x: str) -> str:
        norm = self.g.node("ReduceL2", x, self.g.ints(-1), keepdims=1)
        return self.g.node("Div", x, self.g.node("Max", norm, self._float(1e-12)))

    def finish(self, hidden: str, vector: str) -> None:
        """Name the graph's outputs; positions that only fill the last block are cut off."""
        self.g.node(
            "Slice", hidden, self.g.ints(0), self._blocks.length, self.g.ints(1), out="last_hidden_state"
        )
        self.g.node("Identity", vector, out="sentence_embedding")

    def _rotations(self, theta: float, head_dim: int) -> tuple[str, str]:
        """Cosines and sines for each position: stored, or computed from the angles if there are many."""
        if self._positions * max(x.head_dim for x in self.config.layers) <= STORED_ROTATIONS:
            cos, sin = rope_tables(theta, head_dim, self._positions)
            return self.g.constant(cos), self.g.constant(sin)
        if (theta, head_dim) not in self._computed:
            frequencies = self.g.constant(rope_frequencies(theta, head_dim))
            angles = self.g.node("Mul", self._blocks.positions(), frequencies)  # [S, D / 2]
            self._computed[theta, head_dim] = self.g.node("Cos", angles), self.g.node("Sin", angles)
        return self._computed[theta, head_dim]

    def _norm(self, x: str, weight: str, scale: float, epsilon: float) -> str:
        """A norm; its output is named after the gain when that is used for the first time."""
        out = None
        if not self.g.has(weight):
            out = weight.removesuffix(".weight")
            values = self.weights.tensors[weight].array() * np.float32(scale)
            values = values / self._gains.get(weight, np.float32(1))
            self.g.weight(weight, np.float32, values.shape, [values])
        return self._normed(x, weight, epsilon, out)

    def _normed(self, x: str, gain: str, epsilon: float, out: str | None = None) -> str:
        return self.g.node("SimplifiedLayerNormalization", x, gain, out=out, axis=-1, epsilon=epsilon)

    def _scored(self, q: str, k: str, layer: Layer) -> tuple[str, str]:
        """Queries [B, blocks, KV, block * group, D] and keys [B, blocks, KV, D, keys], of whatever type.

        Queries that share a key head lie together, so that their product is one GEMM per block.
        """
        k = self.g.node("Transpose", self._keys(k, layer), perm=[0, 1, 2, 4, 3])  # [B, blocks, KV, D, keys]
        return self._queries(q, layer), k

    def _attend(self, scores: str, v: str, layer: Layer) -> str:
        """softmax(scores) v, masked; scores are the product of what `_scored` gives."""
        g = self.g
        v = self._keys(v, layer)  # [B, blocks, KV, keys, D]
        bias = self._bias(layer.window)  # [B, blocks, 1, block or 1, 1, keys]
        if layer not in self._shapes:  # layers of one kind have the same
            shape = g.node("Shape", scores)
            keys = g.node("Slice", shape, self.g.ints(4), self.g.ints(5), self.g.ints(0))
            split = g.node("Concat", self.g.ints(0, 0, layer.kv_heads, -1, layer.group), keys, axis=0)
            self._shapes[layer] = shape, split
        shape, split = self._shapes[layer]  # the second: [B, blocks, KV, block, group, keys]
        scores = g.node("Add", g.node("Reshape", scores, split), bias)  # [B, blocks, KV, block, group, keys]
        weights = g.node("Reshape", g.node("Softmax", scores, axis=-1), shape)
        out = g.node("MatMul", weights, v)  # [B, blocks, KV, block * group, D]
        return self._join_heads(out, layer)

    def _attend_in_turn(self, q: str, k: str, v: str, layer: Layer) -> str:
        """As `attention`, one block of queries after another: [B, KV, block * group, D] each."""
        g, scores_of, kind = self.g, self._int8_scores, TensorProto.FLOAT
        codes = scores_of.quantized(q, k) if scores_of else (q, k)
        if scores_of:
            kind = TensorProto.UINT8
        queries = g.node("Transpose", self._queries(codes[0], layer), perm=[1, 0, 2, 3, 4])
        scanned: list[tuple[str, int]] = [(queries, kind)]
        if layer.window is not None:
            scanned += [(self._blocks.key_index, TensorProto.INT64), (self._blocks.inside, TensorProto.BOOL)]
        whole = [self._heads_of(x, layer) for x in (codes[1], v)] if layer.window is None else []
        fixed = self._bias_in_turn() if layer.window is None else self._blocks.near(layer.window)
        self._blocks.real()  # what several blocks take stands outside of what is done for each

        def attend(block: Sequence[str]) -> str:
            if whole:
                keys, values, bias = *whole, fixed
            else:
                index = block[1]
                keys, values = (
                    self._heads_of(g.node("Gather", x, index, axis=1), layer) for x in (codes[1], v)
                )
                bias = self._blocks.bias_of(index, block[2], fixed)
            pair = block[0], g.node("Transpose", keys, perm=[0, 1, 3, 2])  # the second: [B, KV, D, keys]
            scores = scores_of.product(pair, q, k) if scores_of else g.node("MatMul", *pair)
            split = g.node("Reshape", scores, self._split_queries(scores, layer))
            # [B, KV, block, group, keys]
            weights = g.node("Softmax", g.node("Add", split, bias), axis=-1)
            return g.node("MatMul", g.node("Reshape", weights, g.node("Shape", scores)), values)

        out = g.node("Transpose", g.scan(scanned, attend), perm=[1, 0, 2, 3, 4])
        return self._join_heads(out, layer)

    def _heads_of(self, x: str, layer: Layer) -> str:
        """Keys or values [B, keys, KV * D] as [B, KV, keys, D]."""
        x = self.g.node("Reshape", x, self.g.ints(0, 0, layer.kv_heads, layer.head_dim))
        return self.g.node("Transpose", x, perm=[0, 2, 1, 3])

    def _split_queries(self, scores: str, layer: Layer) -> str:
        """The shape of one block's scores [B, KV, block * group, keys] with queries apart from groups."""
        keys = self.g.node("Shape", scores, start=3, end=4)
        return self.g.node("Concat", self.g.ints(0, 0, -1, layer.group), keys, axis=0)

    def _queries(self, q: str, layer: Layer) -> str:
        """[B, S, N * D] as [B, blocks, KV, block * group, D]."""
        kv, d = layer.kv_heads, layer.head_dim
        cut = layer.window is not None or self._in_turn
        blocks = self._blocks.count if cut else self.g.ints(1)
        if kv == 1:  # heads lie beside each other within a token already
            tail = self.g.ints(1, -1, d)
            return self.g.node("Reshape", q, self.g.node("Concat", self.g.ints(0), blocks, tail, axis=0))
        shape = self.g.node("Concat", self.g.ints(0), blocks, self.g.ints(-1, kv, layer.group * d), axis=0)
        q = self.g.node("Transpose", self.g.node("Reshape", q, shape), perm=[0, 1, 3, 2, 4])
        return self.g.node("Reshape", q, self.g.ints(0, 0, kv, -1, d))

    def _join_heads(self, out: str, layer: Layer) -> str:
        """[B, blocks, KV, block * group, D] as [B, S, N * D]."""
        if layer.kv_heads > 1:
            wide = layer.group * layer.head_dim
            out = self.g.node("Reshape", out, self.g.ints(0, 0, layer.kv_heads, -1, wide))
            out = self.g.node("Transpose", out, perm=[0, 1, 3, 2, 4])
        width = self.g.ints(layer.heads * layer.head_dim)
        shape = self.g.node("Concat", self.g.ints(0), self._blocks.padded, width, axis=0)
        return self.g.node("Reshape", out, shape)

    def _keys(self, x: str, layer: Layer) -> str:
        """Keys or values [B, S, KV * D] as [B, blocks, KV, keys, D]."""
        kv, d = layer.kv_heads, layer.head_dim
        if layer.window is not None:
            x = self.g.node("Gather", x, self._blocks.key_index, axis=1)
        else:
            x = self.g.node("Unsqueeze", x, self.g.ints(1))
        if kv == 1:
            return self.g.node("Unsqueeze", x, self.g.ints(2))
        x = self.g.node("Reshape", x, self.g.ints(0, 0, 0, kv, d))
        return self.g.node("Transpose", x, perm=[0, 1, 3, 2, 4])

    def _bias(self, window: int | None) -> str:
        """The mask added to scores [B, blocks, KV, block, group, keys]: 0 where a query attends, else NEG."""
        if window not in self._biases:
            self._biases[window] = self._blocks.bias(window)
        return self._biases[window]

    def _bias_in_turn(self) -> str:
        """The bias of global layers for one block's scores [B, KV, block, group, keys]."""
        if not self._bias_of_blocks:
            self._bias_of_blocks = self.g.node("Squeeze", self._bias(None), self.g.ints(1))
        return self._bias_of_blocks

    def _vector(self, name: str) -> str:
        values = self.weights.tensors[name].array()
        return self.g.weight(name, np.float32, values.shape, [values])

    def _float(self, value: float) -> str:
        return self.g.constant(np.array(value, np.float32))


def block_local_above(window: int) -> int:
    """The number of tokens up to which one block is fastest: the keys of a block are at least two windows."""
    return max(BLOCK_LOCAL_ABOVE, 2 * window)


def _positions(max_seq_length: int, window: int) -> int:
    """The number of stored rotations: the longest text's tokens, and the padding of its last block."""
    if max_seq_length <= block_local_above(window):
        return max_seq_length
    return -(-max_seq_length // CHUNK) * CHUNK


class _Blocks:
    """How the tokens are cut into blocks for local attention, computed in the graph from the input's length.

    Up to `block_local_above` tokens there is one block and its keys are all tokens. Beyond, there are ceil(S
    / CHUNK) equal blocks (S is padded by less than one token per block), and the keys of a block are its own
    tokens and `window` more on either side. Whole blocks are CHUNK tokens long and their keys begin at a
    multiple of CHUNK: engines sum over keys in runs of 128, which are then the same for every S.
    """

    def __init__(self, graph: OnnxGraph, window: int, whole: bool) -> None:
        self.g = graph
        self._nears: dict[int, str] = {}
        self._real = ""
        node, ints = graph.node, graph.ints
        self.length = node("Shape", "input_ids", start=1, end=2, out="length")
        single = node("LessOrEqual", self.length, ints(block_local_above(window)))
        chunks = node("Div", node("Add", self.length, ints(CHUNK - 1)), ints(CHUNK))
        self.count = node("Where", single, ints(1), chunks, out="blocks")
        one_less = node("Sub", self.count, ints(1))
        equal = node("Div", node("Add", self.length, one_less), self.count)
        self._block = node("Where", single, self.length, ints(CHUNK)) if whole else equal
        self.padded = node("Mul", self.count, self._block, out="padded_length")
        side = -(-window // CHUNK) * CHUNK if whole else window
        self._side = node("Where", single, ints(0), ints(side), out="side")
        pads = node("Concat", ints(0, 0, 0), node("Sub", self.padded, self.length), axis=0)
        self.ids = node("Pad", "input_ids", pads)
        self.mask = node("Pad", "attention_mask", pads)
        self._index_keys()

    def _index_keys(self) -> None:
        """`key_index` [blocks, keys]: the token behind each key of each block, clipped into the text."""
        keys = self.g.node("Add", self._block, self.g.node("Mul", self._side, self.g.ints(2)))
        self._offset = self.g.node("Sub", self._range(keys), self._side)  # from the block's first token
        first = self.g.node("Mul", self._range(self.count), self._block)  # [blocks]
        raw = self.g.node("Add", self.g.node("Unsqueeze", first, self.g.ints(1)), self._offset)
        last = self.g.node("Sub", self.padded, self.g.ints(1))
        self.key_index = self.g.node("Max", self.g.node("Min", raw, last), self.g.ints(0), out="key_index")
        self.inside = self.g.node("Equal", raw, self.key_index)  # [blocks, keys]

    def bias(self, window: int | None) -> str:
        """The additive mask, [B, blocks, 1, block or 1, 1, keys]."""
        node, ints = self.g.node, self.g.ints
        allowed = node("Cast", self.mask, to=9)
        if window is None:
            allowed = node("Unsqueeze", allowed, ints(1, 2, 3, 4))  # [B, 1, 1, 1, 1, S]
        else:
            allowed = node("And", node("Gather", allowed, self.key_index, axis=1), self.inside)
            near = self._near(window)  # [block, 1, keys]
            allowed = node("And", node("Unsqueeze", allowed, ints(2, 3, 4)), near)
        zero, neg = (self.g.constant(np.array(x, np.float32)) for x in (0, NEG))
        return node("Where", allowed, zero, neg, out="bias_global" if window is None else "bias_local")

    def near(self, window: int) -> str:
        """Which keys of a block are within the window of which of its queries, bool [block, 1, keys]."""
        if window not in self._nears:
            self._nears[window] = self._near(window)
        return self._nears[window]

    def real(self) -> str:
        """Which tokens are not padding, bool [B, S]."""
        if not self._real:
            self._real = self.g.node("Cast", self.mask, to=9)
        return self._real

    def bias_of(self, index: str, inside: str, near: str) -> str:
        """The additive mask of one block, [B, 1, block, 1, keys], whose row of `key_index` is `index`."""
        node, ints = self.g.node, self.g.ints
        real = node("And", node("Gather", self.real(), index, axis=1), inside)  # [B, keys]
        allowed = node("And", node("Unsqueeze", real, ints(1, 2, 3)), near)
        zero, neg = (self.g.constant(np.array(x, np.float32)) for x in (0, NEG))
        return node("Where", allowed, zero, neg)

    def _near(self, window: int) -> str:
        node, ints = self.g.node, self.g.ints
        query = node("Unsqueeze", self._range(self._block), ints(1))  # [block, 1]
        distance = node("Abs", node("Sub", self._offset, query))  # [block, keys]
        return node("Unsqueeze", node("LessOrEqual", distance, ints(window)), ints(1))

    def positions(self) -> str:
        """The number of each token, float32 [S, 1]."""
        return self.g.node("Unsqueeze", self.g.node("Cast", self._range(self.padded), to=1), self.g.ints(1))

    def _range(self, stop: str) -> str:
        """0 … stop - 1, for a `stop` of shape [1]."""
        scalar = self.g.node("Squeeze", stop, self.g.ints(0))
        zero, one = (self.g.constant(np.array(i, np.int64)) for i in (0, 1))
        return self.g.node("Range", zero, scalar, one)
