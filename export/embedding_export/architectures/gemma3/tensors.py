"""The tensors of a Gemma 3 text encoder: their names, shapes and roles."""

from dataclasses import replace

from embedding_export.architectures.interface.figures import Figures, Layer
from embedding_export.architectures.interface.tensors import (
    TABLE,
    TURNED_TOGETHER,
    Part,
    Residual,
    TensorSpec,
    find_part,
    layer_prefix,
    name_residuals,
)

FINAL_NORM = "norm.weight"
# Norms multiply by 1 + w, and files hold w (transformers, Gemma3RMSNorm).
OFFSET = 1.0

# What names begin with where the checkpoint was saved from a causal language model's class.
_PREFIX = "model."
_LEFT_OUT = {"lm_head.weight": "an embedding does not use it"}
_MARKS: dict[str, Part] = {TABLE: "table", ".self_attn.": "attention", ".mlp.": "feed-forward"}
_HALVES: dict[str, Part] = {"attention": "attention", "output": "feed-forward"}


def canonical_name(name: str) -> str:
    """The canonical name of a tensor, by its name in the files."""
    return name.removeprefix(_PREFIX)


def left_out(name: str) -> str | None:
    """Why the encoder does not use a tensor of the files; None if it should."""
    return _LEFT_OUT.get(name)


def tensor_specs(figures: Figures) -> dict[str, TensorSpec]:
    """Every tensor of the encoder by canonical name; linears are [out, in]."""
    specs = {
        TABLE: TensorSpec((figures.vocab_size, figures.hidden_size), "table", "table"),
        FINAL_NORM: TensorSpec((figures.hidden_size,), "gain", "head", offset=OFFSET),
    }
    for i, layer in enumerate(figures.layers):
        at = layer_prefix(i)
        own = _attention(figures, layer, at) | _feed_forward(figures, at)
        specs |= {name: replace(spec, layer=i) for name, spec in own.items()}
    return specs


def residuals(figures: Figures) -> tuple[Residual, ...]:
    """The sums that a graph names, in the order of computation: two for each layer."""
    return name_residuals(figures, _HALVES)


def part_of(name: str) -> Part | None:
    """The part that a stored tensor belongs to, by its name in a graph; None for all others."""
    return find_part(name, _MARKS)


def _attention(figures: Figures, layer: Layer, at: str) -> dict[str, TensorSpec]:
    hidden, attn, norm = figures.hidden_size, f"{at}self_attn", f"{at}input_layernorm.weight"
    queries, keys = layer.heads * layer.head_dim, layer.kv_heads * layer.head_dim
    outer = TensorSpec((hidden,), "gain", "attention", offset=OFFSET)
    head = replace(outer, shape=(layer.head_dim,))
    turns = layer.head_dim % TURNED_TOGETHER == 0
    return {
        f"{attn}.q_proj.weight": TensorSpec((queries, hidden), "matrix", "attention", norm=norm),
        f"{attn}.k_proj.weight": TensorSpec((keys, hidden), "matrix", "attention", norm=norm),
        f"{attn}.v_proj.weight": TensorSpec(
            (keys, hidden), "matrix", "attention", norm=norm, turning="gives_turned" if turns else None
        ),
        f"{attn}.o_proj.weight": TensorSpec(
            (hidden, queries), "matrix", "attention", turning="takes_turned" if turns else None
        ),
        f"{attn}.q_norm.weight": replace(
            head,
            scale=figures.attention_scale,
            matrix=f"{attn}.q_proj.weight",
            keys=f"{attn}.k_norm.weight",
        ),
        f"{attn}.k_norm.weight": replace(head, matrix=f"{attn}.k_proj.weight"),
        norm: outer,
        f"{at}post_attention_layernorm.weight": outer,
    }


def _feed_forward(figures: Figures, at: str) -> dict[str, TensorSpec]:
    hidden, inner = figures.hidden_size, figures.intermediate_size
    mlp, norm = f"{at}mlp", f"{at}pre_feedforward_layernorm.weight"
    outer = TensorSpec((hidden,), "gain", "feed-forward", offset=OFFSET)
    taking = TensorSpec((inner, hidden), "matrix", "feed-forward", norm=norm)
    return {
        norm: outer,
        f"{at}post_feedforward_layernorm.weight": outer,
        f"{mlp}.gate_proj.weight": taking,
        f"{mlp}.up_proj.weight": taking,
        f"{mlp}.down_proj.weight": TensorSpec(
            (hidden, inner), "matrix", "feed-forward", turning="turned_as_it_runs"
        ),
    }
