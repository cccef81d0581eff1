"""Converts a checkpoint for `llama_worker`: GGUF of llama.cpp's gemma-embedding architecture, Dense included.

python llama_convert.py CHECKPOINT llama.cpp-Q8_0|llama.cpp-Q4_0 FILE.gguf

The table is Q8_0 in both, as in the published files. The file has no vocabulary: ids come from outside.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, PoolingType
from gguf.quants import quantize
from numpy.typing import NDArray
from safetensors import safe_open

ARCHITECTURE = "gemma-embedding"
LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_feedforward_layernorm": "post_ffw_norm",
}
DENSE = {"2_Dense": "dense_2", "3_Dense": "dense_3"}
TABLE = "token_embd.weight"


def tensors(checkpoint: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Every tensor under llama.cpp's name, float32; norms as 1 + w."""
    for folder in ("", *DENSE):
        for path in sorted((checkpoint / folder).glob("*.safetensors")):
            with safe_open(path, "numpy") as file:
                for name in file.keys():  # noqa: SIM118 - not a dict
                    values = file.get_tensor(name).astype(np.float32)
                    yield _renamed(folder, name), 1 + values if name.endswith("norm.weight") else values


def _renamed(folder: str, name: str) -> str:
    if folder:
        return f"{DENSE[folder]}.weight"
    name = name.removeprefix("model.").removesuffix(".weight")
    if name.startswith("layers."):
        _, layer, part = name.split(".", 2)
        return f"blk.{layer}.{LAYER[part]}.weight"
    return {"embed_tokens": TABLE, "norm": "output_norm.weight"}[name]


def describe(writer: GGUFWriter, checkpoint: Path) -> None:
    """The figures that llama.cpp requires, from both dialects of config keys."""
    c: dict[str, Any] = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    rope = c.get("rope_parameters", {})
    writer.add_context_length(c["max_position_embeddings"])
    writer.add_embedding_length(c["hidden_size"])
    writer.add_block_count(c["num_hidden_layers"])
    writer.add_feed_forward_length(c["intermediate_size"])
    writer.add_head_count(c["num_attention_heads"])
    writer.add_head_count_kv(c["num_key_value_heads"])
    writer.add_key_length(c["head_dim"])
    writer.add_value_length(c["head_dim"])
    writer.add_layer_norm_rms_eps(c["rms_norm_eps"])
    writer.add_rope_freq_base(rope.get("full_attention", {}).get("rope_theta") or c["rope_theta"])
    local = rope.get("sliding_attention", {}).get("rope_theta") or c["rope_local_base_freq"]
    writer.add_rope_freq_base_swa(local)
    writer.add_sliding_window(c["sliding_window"])
    writer.add_pooling_type(PoolingType.MEAN)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(c["vocab_size"])


def convert(checkpoint: Path, kind: str, path: Path) -> None:
    """Write FILE.gguf."""
    small = GGMLQuantizationType[kind.removeprefix("llama.cpp-")]
    writer = GGUFWriter(path, ARCHITECTURE)
    describe(writer, checkpoint)
    for name, values in tensors(checkpoint):
        if name.startswith("dense_"):
            writer.add_dense_features_dims(name.removesuffix(".weight"), values.shape[1], values.shape[0])
        if values.ndim == 1:
            writer.add_tensor(name, values)
        else:
            as_type = GGMLQuantizationType.Q8_0 if name == TABLE else small
            writer.add_tensor(name, quantize(values, as_type), raw_dtype=as_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    convert(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
