"""The EmbeddingGemma forward pass, written once.

Knows the architecture (Gemma 3 text encoder, bidirectional, then the sentence-transformers stages) and
nothing of ONNX, torch, tokenizers or quantization: every step is a method of `Ops`, and an interpreter of
`Ops` gives it meaning.
"""

import math
from collections.abc import Sequence

from embedding_export.architectures.encoder_config import EncoderConfig
from embedding_export.architectures.ops import DenseStage, Ops, V


def encode(ops: Ops[V], config: EncoderConfig, dense: Sequence[DenseStage], normalize: bool) -> tuple[V, V]:
    """Last hidden state [B, S, H] and sentence embedding [B, dim]."""
    x = ops.embedding("embed_tokens.weight", math.sqrt(config.hidden_size))
    for i, kind in enumerate(config.layer_types):
        local = kind == "local"
        theta = config.rope_theta_local if local else config.rope_theta_global
        window = config.window if local else None
        attended = _attention(ops, config, x, f"layers.{i}", (theta, window))
        x = ops.residual(x, attended, f"layers.{i}.attention")
        x = ops.residual(x, _feed_forward(ops, x, f"layers.{i}"), f"layers.{i}.output")
    hidden = ops.rms_norm(x, "norm.weight")
    vector = ops.mean_pool(hidden)
    for stage in dense:
        vector = ops.dense(vector, stage)
    return hidden, ops.l2_normalize(vector) if normalize else vector


def _attention(ops: Ops[V], config: EncoderConfig, x: V, layer: str, position: tuple[float, int | None]) -> V:
    theta, window = position
    attn = f"{layer}.self_attn"
    x = ops.rms_norm(x, f"{layer}.input_layernorm.weight")
    q, k, v = ops.linear(x, *(f"{attn}.{n}_proj.weight" for n in "qkv"))
    q = ops.rope(ops.head_norm(q, f"{attn}.q_norm.weight", config.attention_scale), theta)
    k = ops.rope(ops.head_norm(k, f"{attn}.k_norm.weight", 1.0), theta)
    (out,) = ops.linear(ops.attention(q, k, v, window), f"{attn}.o_proj.weight")
    return ops.rms_norm(out, f"{layer}.post_attention_layernorm.weight")


def _feed_forward(ops: Ops[V], x: V, layer: str) -> V:
    x = ops.rms_norm(x, f"{layer}.pre_feedforward_layernorm.weight")
    gate, up = ops.linear(x, f"{layer}.mlp.gate_proj.weight", f"{layer}.mlp.up_proj.weight")
    (out,) = ops.linear(ops.gelu_gate(gate, up), f"{layer}.mlp.down_proj.weight")
    return ops.rms_norm(out, f"{layer}.post_feedforward_layernorm.weight")
