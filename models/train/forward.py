"""The encoder's forward pass as training runs it: what transformers computes, in fewer passes over memory.

Knows nothing of texts, groups or threads. Matrix products are computed in the weights' dtype, everything else
in float32. The window is left out: training's texts are shorter than it.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Gemma3TextModel


def weights_of(model: Gemma3TextModel) -> dict[str, Tensor]:
    """The weights of all layers and norms by name, as the model computes with them now; not the table."""
    named = ((name, module) for name, module in model.named_modules() if name != "embed_tokens")
    return {
        name: module.weight for name, module in named if isinstance(getattr(module, "weight", None), Tensor)
    }


def last_hidden(model: Gemma3TextModel, weights: Mapping[str, Tensor], rows: Tensor, mask: Tensor) -> Tensor:
    """Output of the last norm [b, S, H], float32, from token rows [b, S, H] and a mask [b, S] of real tokens.

    `weights` are named as `weights_of` names them; their matrices may be bfloat16.
    """
    config: Any = model.config
    assert rows.shape[1] <= config.sliding_window // 2, "the window is not computed here"
    positions = torch.arange(rows.shape[1])[None]
    seen = None if bool(mask.all()) else mask[:, None, None, :]
    x = rows
    for i, kind in enumerate(config.layer_types):
        own = {name.removeprefix(f"layers.{i}."): w for name, w in weights.items() if f"layers.{i}." in name}
        turn = model.rotary_emb(x, positions, kind)
        mixed = _attention(_norm(x, own["input_layernorm"]), own, turn, seen, config)
        x = x + _norm(mixed, own["post_attention_layernorm"])
        fed = _feed_forward(_norm(x, own["pre_feedforward_layernorm"]), own)
        x = x + _norm(fed, own["post_feedforward_layernorm"])
    return _norm(x, weights["norm"])


def _attention(
    x: Tensor,
    own: Mapping[str, Tensor],
    turn: tuple[Tensor, Tensor],
    seen: Tensor | None,
    config: Any,
) -> Tensor:
    parts = [own[f"self_attn.{name}_proj"] for name in "qkv"]
    joined = F.linear(x.to(parts[0].dtype), torch.cat(parts)).float()
    heads = joined.view(*x.shape[:2], -1, config.head_dim).transpose(1, 2)
    count = config.num_attention_heads
    q = _turned(_norm(heads[:, :count], own["self_attn.q_norm"]), turn)
    k = _turned(_norm(heads[:, count:-1], own["self_attn.k_norm"]), turn).expand_as(q)
    v = heads[:, -1:].expand_as(q)
    scale = config.query_pre_attn_scalar**-0.5
    mixed = F.scaled_dot_product_attention(q, k, v, seen, scale=scale).transpose(1, 2).flatten(2)
    out = own["self_attn.o_proj"]
    return F.linear(mixed.to(out.dtype), out)


def _feed_forward(x: Tensor, own: Mapping[str, Tensor]) -> Tensor:
    gate, up, down = (own[f"mlp.{name}_proj"] for name in ("gate", "up", "down"))
    wide = F.linear(x.to(gate.dtype), torch.cat((gate, up)))
    opened, values = wide.chunk(2, dim=-1)
    return F.linear(F.gelu(opened, approximate="tanh") * values, down)


def _turned(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions on heads [b, heads, S, D]; `turn` holds cosines and sines [1, S, D]."""
    first, second = x.chunk(2, dim=-1)
    return x * turn[0] + torch.cat((-second, first), dim=-1) * turn[1]


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    normed: Tensor = _Norm.apply(x, weight)  # type: ignore[no-untyped-call]
    return normed


class _Norm(torch.autograd.Function):
    """Gemma's RMSNorm, x (1 + w) / sqrt(mean(x²) + 1e-6), in float32, with its gradient in one piece."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """[..., H] float32."""
        wide, gain = x.float(), 1.0 + weight.float()
        inverse = (wide.square().mean(-1, keepdim=True) + 1e-6).rsqrt_()
        ctx.save_for_backward(x, gain, inverse)
        ctx.dtype = weight.dtype
        return (wide * inverse).mul_(gain)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of x and of the weight."""
        x, gain, inverse = ctx.saved_tensors
        normed = x.float() * inverse
        slope = (gradients[0] * normed).flatten(0, -2).sum(0)
        inner = gradients[0] * gain
        along = (inner * normed).mean(-1, keepdim=True)
        back = inner.addcmul_(normed, along, value=-1.0).mul_(inverse)
        return back.to(x.dtype), slope.to(ctx.dtype)


def cast(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Copies to compute with, each of which collects its gradient: matrices in `dtype`, norms as they are."""
    return {
        name: w.detach().to(dtype if w.dim() > 1 else w.dtype).requires_grad_(torch.is_grad_enabled())
        for name, w in weights.items()
    }
