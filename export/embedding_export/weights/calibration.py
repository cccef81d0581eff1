"""Measures activations: runs the forward pass in numpy over texts, and watches products and norms.

The results decide only how rounding errors are distributed, never what a graph computes: if a user's texts
differ from the calibration texts, that costs a little accuracy at most.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from embedding_export.architectures.interface.figures import Figures, Layer
from embedding_export.architectures.interface.ops import DenseStage
from embedding_export.architectures.interface.rope import rope_tables
from embedding_export.architectures.registry import encode, tensor_specs
from embedding_export.weights.folding import Weights

Floats = NDArray[np.float32]


# Rows of activations that are kept of each kind, spread over the texts.
ROWS = 512


@dataclass(frozen=True)
class Heads:
    """The output of a head norm by pairs of channels that RoPE rotates together, float32 [D / 2] each: the
    largest length of a pair, which rotation does not change at any position, and the mean square."""

    largest: Floats
    mean_square: Floats


@dataclass
class Calibration:
    """What was seen: `inputs`, rows [at most ROWS, in] of what each norm gave to matrices, by the norm's
    name, and of what a matrix took that has none before it, by the matrix; `inverse_squares`, the mean of 1
    over the mean square of what a norm took; `moments`, the mean of x xᵀ over all tokens [in, in], by the
    matrix; `heads` by the head norm's."""

    inputs: dict[str, Floats] = field(default_factory=dict)
    inverse_squares: dict[str, float] = field(default_factory=dict)
    moments: dict[str, Floats] = field(default_factory=dict)
    heads: dict[str, Heads] = field(default_factory=dict)


def calibrate(
    config: Figures, weights: Weights, texts: Sequence[Sequence[int]], beside: Sequence[Sequence[int]] = ()
) -> Calibration:
    """Run the encoder over token ids of some texts; one matrix at a time is in memory.

    Of the texts `beside` only the largest heads count: what is larger than was ever seen would be cut off.

    Raises:
        ValueError: no ids.
    """
    seen = _watched(config, weights, texts)
    if beside:
        others = _watched(config, weights, beside).heads
        seen.heads = {
            norm: replace(heads, largest=np.maximum(heads.largest, others[norm].largest))
            for norm, heads in seen.heads.items()
        }
    return seen


def _watched(config: Figures, weights: Weights, texts: Sequence[Sequence[int]]) -> Calibration:
    lengths = [len(t) for t in texts if t]
    if not lengths:
        raise ValueError("calibration needs tokens")
    seen = Calibration()
    ids = np.array([i for text in texts for i in text])
    encode(Watched(config, weights, ids, lengths, seen), config, (), False)
    return seen


class Watched:
    """`Ops` for several texts, one behind the other without padding; tensors are [tokens, channels]."""

    def __init__(
        self,
        config: Figures,
        weights: Weights,
        ids: NDArray[np.int64],
        lengths: Sequence[int],
        seen: Calibration,
    ) -> None:
        self._config, self._weights, self._ids, self._seen = config, weights, ids, seen
        self._specs = tensor_specs(config)
        self._texts = np.split(np.arange(len(ids)), np.cumsum(lengths)[:-1])
        self._rows = np.unique(np.linspace(0, len(ids) - 1, min(ROWS, len(ids))).astype(np.int64))

    def embedding(self, weight: str, scale: float) -> Floats:
        table = self._weights.tensors[weight]
        rows = np.concatenate([table.rows(i, i + 1) for i in self._ids.tolist()])
        return rows * np.float32(scale)

    def linear(self, x: Floats, *weights: str) -> tuple[Floats, ...]:
        self._seen.moments |= dict.fromkeys(weights, x.T @ x / np.float32(len(x)))
        if self._specs[weights[0]].unnormed:
            self._seen.inputs[weights[0]] = x[self._rows]
        return tuple(x @ self._weights.tensors[name].array().T for name in weights)

    def linear_beside(self, x: Floats, weight: str, beside: Floats) -> Floats:
        return self.linear(x, weight)[0]

    def rms_norm(self, x: Floats, weight: str, before: float = 1.0) -> Floats:
        x = x * np.float32(before)
        self._seen.inputs[weight] = self._norm(x[self._rows], weight)
        squares = np.square(x).mean(axis=-1) + self._config.rms_norm_eps
        self._seen.inverse_squares[weight] = float((1 / squares).mean())
        return self._norm(x, weight)

    def head_norm(self, x: Floats, weight: str | None, scale: float, layer: Layer) -> Floats:
        normed = self._norm(_heads(x, layer), weight) * np.float32(scale)
        if weight is None:
            return normed.reshape(x.shape)
        pairs = np.hypot(*np.split(normed, 2, axis=-1)).reshape(-1, layer.head_dim // 2)
        self._seen.heads[weight] = Heads(pairs.max(axis=0), np.square(pairs).mean(axis=0))
        return normed.reshape(x.shape)

    def rope(self, x: Floats, layer: Layer) -> Floats:
        positions = np.concatenate([np.arange(len(t)) for t in self._texts])
        cos, sin = (t[positions, None] for t in rope_tables(layer.rope_theta, layer.head_dim, len(x)))
        a, b = np.split(_heads(x, layer), 2, axis=-1)
        turned = np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
        return np.asarray(turned.reshape(x.shape), np.float32)

    def attention(self, q: Floats, k: Floats, v: Floats, layer: Layer) -> Floats:
        return np.concatenate([_attend(q[t], k[t], v[t], layer) for t in self._texts])

    def gelu_gate(self, gate: Floats, up: Floats) -> Floats:
        cubed = gate * gate * gate  # ** 3 takes ten times as long
        inner = math.sqrt(2 / math.pi) * (gate + 0.044715 * cubed)
        return np.asarray(0.5 * gate * (1 + np.tanh(inner)) * up, np.float32)

    def residual(self, x: Floats, update: Floats, name: str) -> Floats:
        return x + update

    def scaled(self, x: Floats, weight: str) -> Floats:
        return x * self._weights.tensors[weight].array()

    def token_states(self, x: Floats, weight: str) -> Floats:
        return x

    def mean_pool(self, x: Floats) -> Floats:
        return np.asarray(x.mean(axis=0, keepdims=True), np.float32)

    def dense(self, x: Floats, stage: DenseStage) -> Floats:
        return x

    def l2_normalize(self, x: Floats) -> Floats:
        raise NotImplementedError("calibration ends with the encoder")

    def _norm(self, x: Floats, weight: str | None) -> Floats:
        mean_square = np.square(x).mean(axis=-1, keepdims=True)
        normed = x / np.sqrt(mean_square + np.float32(self._config.rms_norm_eps))
        gain = np.float32(1) if weight is None else self._weights.tensors[weight].array()
        return np.asarray(normed * gain, np.float32)


def _heads(x: Floats, layer: Layer) -> Floats:
    """[tokens, heads * D] as [tokens, heads, D]."""
    return x.reshape(len(x), -1, layer.head_dim)


def _attend(q: Floats, k: Floats, v: Floats, layer: Layer) -> Floats:
    """`Ops.attention` of one text: [tokens, heads * D] each."""
    query, key, value = (_heads(x, layer).swapaxes(0, 1) for x in (q, k, v))  # [heads, tokens, D]
    key, value = (np.repeat(x, layer.group, axis=0) for x in (key, value))
    scores = query @ key.swapaxes(1, 2)
    position = np.arange(len(q))
    if layer.window is not None:
        scores[:, np.abs(position[:, None] - position) > layer.window] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.asarray((weights @ value).swapaxes(0, 1).reshape(len(q), -1), np.float32)
