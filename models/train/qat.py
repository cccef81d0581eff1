"""Fake quantization on GGML's Q4_0 grid: training sees rounded weights, gradients pass straight through.

Knows nothing of the training loop. The rule is the exporter's for such checkpoints: blocks of 32 along the
input, scale = the entry of largest magnitude, signed, divided by -8, stored in float16 (ggml,
quantize_row_q4_0_ref).
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

BLOCK = 32


class Q4Grid(nn.Module):
    """Rounds a weight [out, in] to the grid; the gradient is that of the identity."""

    def forward(self, weight: Tensor) -> Tensor:
        """The weight as Q4_0 gives it back."""
        return weight + (rounded(weight.detach()) - weight.detach())


def rounded(weight: Tensor) -> Tensor:
    """Quantized to Q4_0 and back; `in` must be a multiple of 32."""
    blocks = weight.reshape(-1, BLOCK)
    largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    scale = largest / -8.0
    inverse = torch.where(scale == 0, 0.0, 1.0 / scale)
    codes = (blocks * inverse + 8.5).floor().clamp(0, 15) - 8.0
    return (codes * scale.half().float()).reshape(weight.shape)


def prepare(model: nn.Module) -> None:
    """Put every matrix of the model on the grid while it trains."""
    for module in list(model.modules()):
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() == 2:
            parametrize.register_parametrization(module, "weight", Q4Grid())


def release(model: nn.Module) -> None:
    """Take the grid away again; the weights underneath stay, as `...-unquantized` checkpoints have them."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
