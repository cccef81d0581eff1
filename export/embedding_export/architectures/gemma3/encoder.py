"""The forward pass of EmbeddingGemma, written once for every format.

It is the bidirectional Gemma 3 text encoder, followed by the sentence-transformers stages. Every step is a
method of `Ops`; an implementation of `Ops` turns the steps into ONNX nodes, LiteRT operators or torch calls.
"""

import math
from collections.abc import Sequence

from embedding_export.architectures.gemma3.tensors import FINAL_NORM
from embedding_export.architectures.interface.figures import Figures, Layer
from embedding_export.architectures.interface.ops import DenseStage, Ops, V
from embedding_export.architectures.interface.tensors import TABLE


def encode(ops: Ops[V], figures: Figures, dense: Sequence[DenseStage], normalize: bool) -> tuple[V, V]:
    """Last hidden state [B, S, H] and sentence embedding [B, dim]."""
    x = ops.embedding(TABLE, math.sqrt(figures.hidden_size))
    for i, layer in enumerate(figures.layers):
        attended = _attention(ops, x, f"layers.{i}", layer, figures.attention_scale)
        x = ops.residual(x, attended, f"layers.{i}.attention")
        x = ops.residual(x, _feed_forward(ops, x, f"layers.{i}"), f"layers.{i}.output")
    hidden = ops.rms_norm(x, FINAL_NORM)
    vector = ops.mean_pool(hidden)
    for stage in dense:
        vector = ops.dense(vector, stage)
    return hidden, ops.l2_normalize(vector) if normalize else vector


def _attention(ops: Ops[V], x: V, at: str, layer: Layer, scale: float) -> V:
    attn = f"{at}.self_attn"
    x = ops.rms_norm(x, f"{at}.input_layernorm.weight")
    q, k, v = ops.linear(x, *(f"{attn}.{n}_proj.weight" for n in "qkv"))
    q = ops.rope(ops.head_norm(q, f"{attn}.q_norm.weight", scale, layer), layer)
    k = ops.rope(ops.head_norm(k, f"{attn}.k_norm.weight", 1.0, layer), layer)
    (out,) = ops.linear(ops.attention(q, k, v, layer), f"{attn}.o_proj.weight")
    return ops.rms_norm(out, f"{at}.post_attention_layernorm.weight")


def _feed_forward(ops: Ops[V], x: V, at: str) -> V:
    x = ops.rms_norm(x, f"{at}.pre_feedforward_layernorm.weight")
    gate, up = ops.linear(x, f"{at}.mlp.gate_proj.weight", f"{at}.mlp.up_proj.weight")
    (out,) = ops.linear(ops.gelu_gate(gate, up), f"{at}.mlp.down_proj.weight")
    return ops.rms_norm(out, f"{at}.post_feedforward_layernorm.weight")
