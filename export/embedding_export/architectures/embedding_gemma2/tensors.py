"""The tensors of EmbeddingGemma 2's text encoder: their names, shapes and roles."""

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
PROJECTION = "embedding_projection.weight"
PER_LAYER_NORM = "ple.per_layer_projection_norm.weight"

# What names begin with where the text model is part of the whole.
_PREFIX = "language_model."
_TOWERS = ("vision_tower.", "audio_tower.", "embed_vision.", "embed_audio.")
# All layers' inputs come from one matrix of the files: each layer has rows of it.
_PER_LAYER_INPUTS = "ple.per_layer_model_projection.weight"
_MARKS: dict[str, Part] = {
    TABLE: "table",
    ".self_attn.": "attention",
    ".mlp.": "feed-forward",
    ".ple_block.": "per-layer",
    ".per_layer_input.": "per-layer",
    ".layer_scalar": "per-layer",
    "ple.": "per-layer",
    PROJECTION: "head",
}
_SUMS: dict[str, Part] = {"attention": "attention", "feed_forward": "feed-forward", "output": "per-layer"}


def canonical_name(name: str) -> str:
    """The canonical name of a tensor, by its name in the files."""
    return name.removeprefix(_PREFIX)


def left_out(name: str) -> str | None:
    """Why the encoder does not use a tensor of the files; None if it should."""
    return "a bundle embeds only text" if name.startswith(_TOWERS) else None


def tensor_specs(figures: Figures) -> dict[str, TensorSpec]:
    """Every tensor of the encoder by canonical name; linears are [out, in]."""
    hidden, own = figures.hidden_size, figures.per_layer_size
    assert own is not None, "every EmbeddingGemma 2 has inputs of layers' own"
    specs = {
        TABLE: TensorSpec((figures.vocab_size, hidden), "table", "table"),
        PER_LAYER_NORM: TensorSpec((own,), "gain", "per-layer"),
        FINAL_NORM: TensorSpec((hidden,), "gain", "head"),
        PROJECTION: TensorSpec((figures.output_size, hidden), "matrix", "head"),
    }
    for i, layer in enumerate(figures.layers):
        at = layer_prefix(i)
        parts = _attention(hidden, layer, at) | _feed_forward(hidden, figures.intermediate_size, at)
        parts |= _per_layer(hidden, own, i)
        specs |= {name: replace(spec, layer=i) for name, spec in parts.items()}
    return specs


def residuals(figures: Figures) -> tuple[Residual, ...]:
    """The sums that a graph names, in the order of computation: three for each layer.

    The last is named before the layer's scalar multiplies it.
    """
    return name_residuals(figures, _SUMS)


def part_of(name: str) -> Part | None:
    """The part that a stored tensor belongs to, by its name in a graph; None for all others."""
    return find_part(name, _MARKS)


def _attention(hidden: int, layer: Layer, at: str) -> dict[str, TensorSpec]:
    """The attention's tensors. Values are normed without a gain, so rotations within a head are allowed."""
    attn, norm = f"{at}self_attn", f"{at}input_layernorm.weight"
    queries, keys = layer.heads * layer.head_dim, layer.kv_heads * layer.head_dim
    outer = TensorSpec((hidden,), "gain", "attention")
    head = replace(outer, shape=(layer.head_dim,))
    taking = TensorSpec((keys, hidden), "matrix", "attention", norm=norm)
    turns = layer.head_dim % TURNED_TOGETHER == 0
    return {
        norm: outer,
        f"{attn}.q_proj.weight": replace(taking, shape=(queries, hidden)),
        f"{attn}.k_proj.weight": taking,
        f"{attn}.v_proj.weight": replace(taking, turning="gives_turned" if turns else None),
        f"{attn}.q_norm.weight": replace(head, matrix=f"{attn}.q_proj.weight", keys=f"{attn}.k_norm.weight"),
        f"{attn}.k_norm.weight": replace(head, matrix=f"{attn}.k_proj.weight"),
        f"{attn}.o_proj.weight": TensorSpec(
            (hidden, queries), "matrix", "attention", turning="takes_turned" if turns else None
        ),
        f"{at}post_attention_layernorm.weight": outer,
    }


def _feed_forward(hidden: int, inner: int, at: str) -> dict[str, TensorSpec]:
    mlp, norm = f"{at}mlp", f"{at}pre_feedforward_layernorm.weight"
    outer = TensorSpec((hidden,), "gain", "feed-forward")
    taking = TensorSpec((inner, hidden), "matrix", "feed-forward", norm=norm)
    return {
        norm: outer,
        f"{mlp}.gate_proj.weight": taking,
        f"{mlp}.up_proj.weight": taking,
        f"{mlp}.down_proj.weight": TensorSpec(
            (hidden, inner), "matrix", "feed-forward", turning="turned_as_it_runs"
        ),
        f"{at}post_feedforward_layernorm.weight": outer,
    }


def _per_layer(hidden: int, own: int, i: int) -> dict[str, TensorSpec]:
    at = layer_prefix(i)
    block = f"{at}ple_block"
    matrix = TensorSpec((own, hidden), "matrix", "per-layer")
    return {
        f"{at}per_layer_input.weight": replace(matrix, rows_of=(_PER_LAYER_INPUTS, i * own)),
        f"{block}.per_layer_input_gate.weight": replace(matrix, unnormed=True),
        f"{block}.per_layer_projection.weight": TensorSpec(
            (hidden, own), "matrix", "per-layer", turning="turned_as_it_runs"
        ),
        f"{block}.post_per_layer_input_norm.weight": TensorSpec((hidden,), "gain", "per-layer"),
        f"{at}layer_scalar": TensorSpec((1,), "scalar", "per-layer"),
    }
