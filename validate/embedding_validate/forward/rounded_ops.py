"""The forward pass with a quantized graph's own rounding, compared with the graph update by update.

Rounding amplifies a different last digit, so two sound passes drift apart within a few layers. Here each part
of a layer starts from what the graph itself gave for the part before, so only that part's own error remains.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from embedding_export.architectures.interface.figures import Figures, Layer
from embedding_export.architectures.interface.ops import DenseStage
from embedding_export.audit.dequantized import read_graph
from embedding_export.audit.read_eight_bits import read_input_factors, turning
from embedding_export.weights.folding import Weights
from embedding_export.weights.stored import TAKES_TURNED
from embedding_validate.forward.layers import EMBEDDINGS
from embedding_validate.forward.torch_ops import TorchOps

INT8_MAX = 127.0
# Smaller than any activation: rows of zeros stay zeros.
_TINY = 1e-30
_BLOCK = 32

Rounding = Callable[[Tensor], Tensor]
"""What a matrix product makes of its input: the same shape, each value on its grid."""


def rows(x: Tensor) -> Tensor:
    """Rounds to 8 bits, symmetric, with one scale per row: the row's largest magnitude becomes 127."""
    scale = (x.abs().amax(-1, keepdim=True) / INT8_MAX).clamp(min=_TINY)  # (..., 1) for x (..., columns)
    return (x / scale).round() * scale


def blocks(x: Tensor) -> Tensor:
    """Applies `rows` to each block of 32 values."""
    return rows(x.reshape(*x.shape[:-1], -1, _BLOCK)).flatten(-2)


def tokens(x: Tensor) -> Tensor:
    """Rounds to 8 bits with one scale and zero point per row; 256 steps cover the row's range and 0. XNNPACK
    rounds the inputs of products with int8 and 4-bit weights so (its `qd8` quantization)."""
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    steps = 255 / (high - low).clamp(min=_TINY)  # per unit, (..., 1)
    low, high = low * steps, high * steps
    zero = torch.where(low + high > 1, -128 - low, 127 - high).clamp(-128, 127).round()
    return (x * steps).round().clamp(-128 - zero, 127 - zero) / steps


def exact(x: Tensor) -> Tensor:
    """Rounds nothing."""
    return x


# What engines do to the input of a product, by the graph's precision; in int4, where 4-bit kernels multiply
# (checkpoints trained for Q4_0). There it depends on the CPU: blocks on x86 (with VNNI and without) and on
# ARM with dot products, floats on ARM without them; emulated ones agree.
ROUNDINGS: dict[str, tuple[Rounding, ...]] = {"int8": (rows,), "int8_q4": (rows,), "int4": (blocks, exact)}


@dataclass(frozen=True)
class Products:
    """The products of a graph: the names of matrices that take rotated inputs, that round nothing, and that
    have 8 bits; and the factors by which inputs are multiplied before they are rounded."""

    turned: frozenset[str] = frozenset()
    exact: frozenset[str] = frozenset()
    eight_bits: frozenset[str] = frozenset()
    inputs: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path) -> "Products":
        """The products of the graph at `path`."""
        stored = read_graph(path)
        turned = frozenset(n for n, w in stored.items() if w.turned == TAKES_TURNED)
        exact = frozenset(n for n, w in stored.items() if w.kind == "float32")
        eight_bits = frozenset(n for n, w in stored.items() if w.eight_bits)
        names = (n for n in stored if f"{n}:inputs" in stored)
        inputs = {n: torch.from_numpy(read_input_factors(stored, n).copy()) for n in names}
        return cls(turned, exact, eight_bits, inputs)

    def rounded(self, x: Tensor, weight: str, rounding: Rounding) -> Tensor:
        """The input of a matrix product as the graph rounds it."""
        if weight in self.exact:
            return x
        if weight in self.eight_bits and rounding is not tokens:  # whatever 4-bit products do on this CPU
            rounding = rows
        if weight in self.inputs:  # powers of two: nothing else is rounded
            return rounding(x * self.inputs[weight]) / self.inputs[weight]
        return _turned(rounding(_turned(x))) if weight in self.turned else rounding(x)


def _turned(x: Tensor) -> Tensor:
    """Channels rotated in blocks, or rotated back."""
    matrix = torch.from_numpy(turning(x.shape[-1]))
    blocks = x.reshape(*x.shape[:-1], -1, len(matrix))  # (..., blocks, block)
    return torch.matmul(blocks, matrix).reshape(x.shape)


class TokenOps(TorchOps):
    """The forward pass with a quantized LiteRT graph's rounding: only of its products' inputs."""

    products = Products()

    def linear(self, x: Tensor, *weights: str) -> tuple[Tensor, ...]:
        return super().linear(self.products.rounded(x, weights[0], tokens), *weights)

    def dense(self, x: Tensor, stage: DenseStage) -> Tensor:
        return super().dense(self.products.rounded(x, stage.weight, tokens), stage)

    @classmethod
    def of(cls, ops: type[TorchOps], products: Products) -> type[TorchOps]:
        """A forward pass, sound or faulty, with this rounding."""
        return type("Rounded", (cls, ops) if ops is not TorchOps else (cls,), {"products": products})


class RoundedOps(TorchOps):
    """Runs each part of a layer from the graph's own residual; `errors` are those of the updates.

    A relative error is ‖a − b‖ / ‖b‖ for what this pass adds, a, and what the graph added, b.
    """

    def __init__(
        self,
        config: Figures,
        weights: Weights,
        ids: Tensor,
        residuals: Mapping[str, Tensor],
        rounding: Callable[[Tensor, str], Tensor],
        scores: Sequence[tuple[float, float]],
    ) -> None:
        """Take the graph's named `residuals` [1, S, H] and in `scores` each layer's scales of q and k codes.

        `rounding` maps a matrix product's input, and the matrix's name, to the input as the graph rounds it.
        """
        super().__init__(config, weights, ids, torch.ones_like(ids))
        self._residuals, self._round, self._scores = residuals, rounding, list(scores)
        self.errors: dict[str, float] = {}

    def embedding(self, weight: str, scale: float) -> Tensor:
        rows = super().embedding(weight, scale)
        return self._held(EMBEDDINGS, torch.zeros_like(rows), rows)

    def linear(self, x: Tensor, *weights: str) -> tuple[Tensor, ...]:
        return super().linear(self._round(x, weights[0]), *weights)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, layer: Layer) -> Tensor:
        """Attention on 8-bit codes: products of whole numbers, exact in float32 at 256 terms."""
        q_scale, k_scale = self._scores.pop(0)
        q_codes, k_codes = ((x / s).round().clamp(-128, 127) for x, s in ((q, q_scale), (k, k_scale)))
        return super().attention(q_codes * q_scale, k_codes * k_scale, v, layer)

    def residual(self, x: Tensor, update: Tensor, name: str) -> Tensor:
        return self._held(name, x, update)

    def dense(self, x: Tensor, stage: DenseStage) -> Tensor:
        return super().dense(self._round(x, stage.weight), stage)

    def _held(self, name: str, before: Tensor, update: Tensor) -> Tensor:
        """Compare the update of `before` with the graph's, and continue with the graph's residual."""
        residual = self._residuals[name]
        added = (residual - before).double()
        self.errors[name] = float((update.double() - added).norm() / added.norm().clamp(min=_TINY))
        return residual
