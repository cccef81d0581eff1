"""Ways to get EmbeddingGemma 2 wrong that do not exist for a model without per-layer inputs."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from embedding_export.architectures.interface.figures import Layer
from embedding_export.architectures.registry import tensor_specs
from embedding_validate.forward.interpreter import Model
from embedding_validate.forward.torch_ops import TorchOps, heads

Fault = Callable[[Model], Model]


def faults() -> Mapping[str, Fault]:
    """Faults that show on one text alone, by name."""
    return {
        "norm of values missing": _ops(_NoValueNorm),
        "attention scores scaled": _ops(_ScaledScores),
        "layer scalar missing": _ops(_NoScalar),
        "a quarter of global heads rotated": _ops(_PartlyRotated),
        "layers' own inputs missing": _ops(_NoOwnInput),
        "layers' own inputs from the layer's state": _ops(_OwnInputOfState),
        "gate of layers' own inputs normed": _ops(_NormedGate),
    }


def _ops(kind: type[TorchOps]) -> Fault:
    return lambda m: replace(m, ops=kind)


class _NoValueNorm(TorchOps):
    def head_norm(self, x: Tensor, weight: str | None, scale: float, layer: Layer) -> Tensor:
        return x if weight is None else super().head_norm(x, weight, scale, layer)


class _ScaledScores(TorchOps):
    """Divides scores by the root of the head dimension, as most models do."""

    def attention(self, q: Tensor, k: Tensor, v: Tensor, layer: Layer) -> Tensor:
        return super().attention(q * layer.head_dim**-0.5, k, v, layer)


class _NoScalar(TorchOps):
    def scaled(self, x: Tensor, weight: str) -> Tensor:
        return x


class _PartlyRotated(TorchOps):
    """Rotates only part of each head, as Gemma 4's global layers do ("proportional" rotation)."""

    def rope(self, x: Tensor, layer: Layer) -> Tensor:
        turned = super().rope(x, layer)
        if layer.window is not None:
            return turned
        pairs = torch.arange(layer.head_dim) % (layer.head_dim // 2)
        return torch.where(pairs < layer.head_dim // 8, heads(turned, layer), heads(x, layer)).flatten(2)


class _NoOwnInput(TorchOps):
    """Zeros: the block that they gate adds nothing then."""

    def linear_beside(self, x: Tensor, weight: str, beside: Tensor) -> Tensor:
        return torch.zeros_like(super().linear_beside(x, weight, beside))


class _OwnInputOfState(TorchOps):
    """Takes a layer's own input from the sum so far instead of the token's embedding."""

    def linear_beside(self, x: Tensor, weight: str, beside: Tensor) -> Tensor:
        return super().linear_beside(beside, weight, beside)


class _NormedGate(TorchOps):
    def linear(self, x: Tensor, *weights: str) -> tuple[Tensor, ...]:
        unnormed = tensor_specs(self.config)[weights[0]].unnormed
        return super().linear(self._normed(x) if unnormed else x, *weights)
