"""`Ops` in plain torch: the pass that graphs are compared with, and an aid to find a wrong layer.

It reads weights by name and computes at once, in float32.
"""

import numpy as np
import torch
from torch import Tensor

from embedding_export.architectures.interface.figures import Figures, Layer
from embedding_export.architectures.interface.ops import DenseStage
from embedding_export.weights.folding import Weights

# Finite, so that a row whose keys are all masked stays finite.
NEG = -1e9


class TorchOps:
    """Runs the forward pass for ids and mask, int64 [B, S]; `layers` keeps the named residuals."""

    def __init__(self, config: Figures, weights: Weights, ids: Tensor, mask: Tensor) -> None:
        self.config, self.weights, self.ids, self.mask = config, weights, ids, mask
        self.layers: dict[str, Tensor] = {}

    def embedding(self, weight: str, scale: float) -> Tensor:
        return self._weight(weight)[self.ids] * scale

    def linear(self, x: Tensor, *weights: str) -> tuple[Tensor, ...]:
        return tuple(x @ self._weight(name).T for name in weights)

    def linear_beside(self, x: Tensor, weight: str, beside: Tensor) -> Tensor:
        return self.linear(x, weight)[0]

    def rms_norm(self, x: Tensor, weight: str, before: float = 1.0) -> Tensor:
        return self._normed(x * before) * self._weight(weight)

    def head_norm(self, x: Tensor, weight: str | None, scale: float, layer: Layer) -> Tensor:
        own = heads(x, layer)
        normed = self._normed(own) if weight is None else self.rms_norm(own, weight)
        return (normed * scale).flatten(2)

    def rope(self, x: Tensor, layer: Layer) -> Tensor:
        d = layer.head_dim
        frequencies = 1.0 / layer.rope_theta ** (torch.arange(0, d, 2, dtype=torch.float32) / d)
        angles = torch.arange(x.shape[1], dtype=torch.float32)[:, None] * frequencies
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        a, b = heads(x, layer).chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(2)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, layer: Layer) -> Tensor:
        query, key, value = (heads(x, layer).transpose(1, 2) for x in (q, k, v))  # [B, heads or KV, S, D]
        key, value = (x.repeat_interleave(layer.group, dim=1) for x in (key, value))
        allowed = self.mask[:, None, None, :].bool()  # [B, 1, 1, S]
        if layer.window is not None:
            position = torch.arange(q.shape[1])
            allowed = allowed & ((position[:, None] - position[None, :]).abs() <= layer.window)
        scores = (query @ key.transpose(2, 3)).masked_fill(~allowed, NEG)
        return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)

    def gelu_gate(self, gate: Tensor, up: Tensor) -> Tensor:
        return torch.nn.functional.gelu(gate, approximate="tanh") * up

    def residual(self, x: Tensor, update: Tensor, name: str) -> Tensor:
        self.layers[name] = x + update
        return self.layers[name]

    def scaled(self, x: Tensor, weight: str) -> Tensor:
        return x * self._weight(weight)

    def token_states(self, x: Tensor, weight: str) -> Tensor:
        return x @ self._weight(weight).T

    def mean_pool(self, x: Tensor) -> Tensor:
        mask = self.mask[:, :, None].to(x.dtype)
        return (x * mask).sum(1) / mask.sum(1).clamp(min=1e-9)

    def dense(self, x: Tensor, stage: DenseStage) -> Tensor:
        x = x @ self._weight(stage.weight).T
        if stage.bias is not None:
            x = x + self._weight(stage.bias)
        return x.tanh() if stage.activation == "tanh" else x

    def l2_normalize(self, x: Tensor) -> Tensor:
        return torch.nn.functional.normalize(x, dim=-1)

    def _normed(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.config.rms_norm_eps)

    def _weight(self, name: str) -> Tensor:
        values = np.require(self.weights.tensors[name].array(), requirements="W")  # torch wants to own it
        return torch.from_numpy(values)


def heads(x: Tensor, layer: Layer) -> Tensor:
    """[B, S, heads * D] as [B, S, heads, D]."""
    return x.reshape(*x.shape[:2], -1, layer.head_dim)
