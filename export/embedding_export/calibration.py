"""How large activations get: the forward pass in numpy over some tokens, watched at every matrix product.

Knows nothing of formats. What is learned here decides how rounding errors are shared out, never what a graph
computes: texts that differ from these cost a little accuracy at most.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from embedding_export.encoder import encode
from embedding_export.encoder_config import EncoderConfig
from embedding_export.folding import Weights
from embedding_export.ops import DenseStage

Floats = NDArray[np.float32]


@dataclass
class Calibration:
    """Largest magnitudes seen: `inputs` per channel [in] of each matrix, `heads` of what a head norm gave.

    The latter is that of pairs that are rotated together: what no rotation exceeds, wherever a token stands.
    """

    inputs: dict[str, Floats] = field(default_factory=dict)
    heads: dict[str, float] = field(default_factory=dict)


def calibrate(config: EncoderConfig, weights: Weights, ids: Sequence[int]) -> Calibration:
    """Run the encoder over token ids, of one text or of several joined; one matrix at a time is in memory.

    Raises:
        ValueError: no ids.
    """
    if not ids:
        raise ValueError("calibration needs tokens")
    seen = Calibration()
    encode(_Watched(config, weights, np.array(ids), seen), config, (), False)
    return seen


class _Watched:
    """`Ops` for one text; tensors are [S, channels]."""

    def __init__(
        self, config: EncoderConfig, weights: Weights, ids: NDArray[np.int64], seen: Calibration
    ) -> None:
        self._config, self._weights, self._ids, self._seen = config, weights, ids, seen

    def embedding(self, weight: str, scale: float) -> Floats:
        table = self._weights.tensors[weight]
        rows = np.concatenate([table.rows(i, i + 1) for i in self._ids.tolist()])
        return rows * np.float32(scale)

    def linear(self, x: Floats, *weights: str) -> tuple[Floats, ...]:
        self._seen.inputs |= dict.fromkeys(weights, np.abs(x).max(axis=0))
        return tuple(x @ self._weights.tensors[name].array().T for name in weights)

    def rms_norm(self, x: Floats, weight: str) -> Floats:
        mean_square = np.square(x).mean(axis=-1, keepdims=True)
        normed = x / np.sqrt(mean_square + np.float32(self._config.rms_norm_eps))
        return np.asarray(normed * (1 + self._weights.tensors[weight].array()), np.float32)

    def head_norm(self, x: Floats, weight: str, scale: float) -> Floats:
        normed = self.rms_norm(self._heads(x), weight) * np.float32(scale)
        self._seen.heads[weight] = float(np.hypot(*np.split(normed, 2, axis=-1)).max())
        return normed.reshape(x.shape)

    def rope(self, x: Floats, theta: float) -> Floats:
        d = self._config.head_dim
        frequencies = 1 / theta ** (np.arange(0, d, 2, dtype=np.float32) / d)
        angles = (np.arange(len(x), dtype=np.float32)[:, None] * frequencies)[:, None]
        a, b = np.split(self._heads(x), 2, axis=-1)
        cos, sin = np.cos(angles), np.sin(angles)
        turned = np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
        return np.asarray(turned.reshape(x.shape), np.float32)

    def attention(self, q: Floats, k: Floats, v: Floats, window: int | None) -> Floats:
        group = self._config.num_attention_heads // self._config.num_key_value_heads
        query, key, value = (self._heads(x).swapaxes(0, 1) for x in (q, k, v))
        key, value = (np.repeat(x, group, axis=0) for x in (key, value))
        scores = query @ key.swapaxes(1, 2)
        position = np.arange(len(q))
        if window is not None:
            scores[:, np.abs(position[:, None] - position) > window] = -np.inf
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return np.asarray((weights @ value).swapaxes(0, 1).reshape(len(q), -1), np.float32)

    def gelu_gate(self, gate: Floats, up: Floats) -> Floats:
        inner = np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)
        return np.asarray(0.5 * gate * (1 + np.tanh(inner)) * up, np.float32)

    def residual(self, x: Floats, update: Floats, name: str) -> Floats:
        return x + update

    def mean_pool(self, x: Floats) -> Floats:
        return np.asarray(x.mean(axis=0, keepdims=True), np.float32)

    def dense(self, x: Floats, stage: DenseStage) -> Floats:
        raise NotImplementedError("calibration ends with the encoder")

    def l2_normalize(self, x: Floats) -> Floats:
        raise NotImplementedError("calibration ends with the encoder")

    def _heads(self, x: Floats) -> Floats:
        return x.reshape(len(x), -1, self._config.head_dim)
