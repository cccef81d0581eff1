"""The forward pass of EmbeddingGemma 2's text encoder, written once for every format.

Every step is a method of `Ops`; an implementation of `Ops` turns the steps into ONNX nodes, LiteRT operators
or torch calls. The order of steps follows transformers' EmbeddingGemma2TextModel (5.23).
"""

import math
from collections.abc import Sequence

from embedding_export.architectures.embedding_gemma2.tensors import FINAL_NORM, PER_LAYER_NORM, PROJECTION
from embedding_export.architectures.interface.figures import Figures, Layer
from embedding_export.architectures.interface.ops import DenseStage, Ops, V
from embedding_export.architectures.interface.tensors import TABLE


def encode(ops: Ops[V], figures: Figures, dense: Sequence[DenseStage], normalize: bool) -> tuple[V, V]:
    """Last hidden state [B, S, output_size] and sentence embedding [B, dim].

    Projecting the mean gives the same result as projecting each token.
    """
    embeddings = x = ops.embedding(TABLE, math.sqrt(figures.hidden_size))
    for i, layer in enumerate(figures.layers):
        at = f"layers.{i}"
        x = ops.residual(x, _attention(ops, x, at, layer, figures.attention_scale), f"{at}.attention")
        x = ops.residual(x, _feed_forward(ops, x, at), f"{at}.feed_forward")
        own = _own_input(ops, embeddings, x, at, figures.hidden_size)
        x = ops.residual(x, _per_layer(ops, x, own, at), f"{at}.output")
        x = ops.scaled(x, f"{at}.layer_scalar")
    hidden = ops.rms_norm(x, FINAL_NORM)
    projection = DenseStage(PROJECTION, None, "identity", figures.hidden_size, figures.output_size)
    vector = ops.mean_pool(hidden)
    for stage in (projection, *dense):
        vector = ops.dense(vector, stage)
    return ops.token_states(hidden, PROJECTION), ops.l2_normalize(vector) if normalize else vector


def _attention(ops: Ops[V], x: V, at: str, layer: Layer, scale: float) -> V:
    attn = f"{at}.self_attn"
    x = ops.rms_norm(x, f"{at}.input_layernorm.weight")
    q, k, v = ops.linear(x, *(f"{attn}.{n}_proj.weight" for n in "qkv"))
    q = ops.rope(ops.head_norm(q, f"{attn}.q_norm.weight", scale, layer), layer)
    k = ops.rope(ops.head_norm(k, f"{attn}.k_norm.weight", 1.0, layer), layer)
    v = ops.head_norm(v, None, 1.0, layer)
    (out,) = ops.linear(ops.attention(q, k, v, layer), f"{attn}.o_proj.weight")
    return ops.rms_norm(out, f"{at}.post_attention_layernorm.weight")


def _feed_forward(ops: Ops[V], x: V, at: str) -> V:
    x = ops.rms_norm(x, f"{at}.pre_feedforward_layernorm.weight")
    gate, up = ops.linear(x, f"{at}.mlp.gate_proj.weight", f"{at}.mlp.up_proj.weight")
    (out,) = ops.linear(ops.gelu_gate(gate, up), f"{at}.mlp.down_proj.weight")
    return ops.rms_norm(out, f"{at}.post_feedforward_layernorm.weight")


def _own_input(ops: Ops[V], embeddings: V, x: V, at: str, hidden_size: int) -> V:
    """The layer's input from each token's own embedding [B, S, P], whatever its position."""
    own = ops.linear_beside(embeddings, f"{at}.per_layer_input.weight", x)
    return ops.rms_norm(own, PER_LAYER_NORM, before=hidden_size**-0.5)


def _per_layer(ops: Ops[V], x: V, own: V, at: str) -> V:
    """The update by the layer's own input; the residual gates it, without a norm before the gate."""
    block = f"{at}.ple_block"
    (gate,) = ops.linear(x, f"{block}.per_layer_input_gate.weight")
    (out,) = ops.linear(ops.gelu_gate(gate, own), f"{block}.per_layer_projection.weight")
    return ops.rms_norm(out, f"{block}.post_per_layer_input_norm.weight")
