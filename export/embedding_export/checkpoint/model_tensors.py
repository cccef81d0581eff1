"""Holds a folder to the tensors that the model must have, by name and shape: all of them, and no others.

Knows the names of the files' tensors; nothing of what is computed with them.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from embedding_export.architectures.encoder_config import EncoderConfig
from embedding_export.checkpoint.stages import Stages
from embedding_export.errors import CheckpointError
from embedding_export.files.safetensors import read_weights
from embedding_export.files.tensors import Tensor

Shapes = dict[str, tuple[int, ...]]

_PREFIX = "model."  # written where the checkpoint was saved from a causal language model's class
_LM_HEAD = "lm_head.weight"


def read_model_tensors(
    folder: Path, config: EncoderConfig, stages: Stages
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Every tensor of encoder and dense stages by canonical name, and notes on what was left out.

    Raises:
        CheckpointError: a tensor is missing, left over, double, or of the wrong shape; or a file is damaged.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in read_weights(folder).items():
        canonical = name.removeprefix(_PREFIX)
        if canonical in found:
            raise CheckpointError(
                f"{tensor.file} has {canonical} twice, with and without {_PREFIX} before it. Keep the one "
                "that is meant, or fetch the checkpoint again."
            )
        found[canonical] = dataclasses.replace(tensor, name=canonical)
    head = found.pop(_LM_HEAD, None)
    expected = encoder_shapes(config)
    _refuse_difference(folder, expected, found)
    tensors = {name: found[name] for name in expected}
    for stage, path in zip(stages.dense, stages.dense_folders, strict=True):
        names = {"linear.weight": stage.weight} | ({"linear.bias": stage.bias} if stage.bias else {})
        part = read_weights(path)
        shapes: Shapes = {"linear.weight": (stage.out_features, stage.in_features)}
        _refuse_difference(path, shapes | dict.fromkeys(list(names)[1:], (stage.out_features,)), part)
        tensors |= {new: dataclasses.replace(part[old], name=new) for old, new in names.items()}
    return tensors, (f"{_LM_HEAD} left out: an embedding does not use it",) if head else ()


def encoder_shapes(config: EncoderConfig) -> Shapes:
    """Canonical name and shape of every tensor of the encoder; linears are [out, in]."""
    hidden, inner, head = config.hidden_size, config.intermediate_size, config.head_dim
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    layer: Shapes = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "self_attn.q_norm": (head,),
        "self_attn.k_norm": (head,),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
        "pre_feedforward_layernorm": (hidden,),
        "post_feedforward_layernorm": (hidden,),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    shapes: Shapes = {"embed_tokens.weight": (config.vocab_size, hidden), "norm.weight": (hidden,)}
    for i in range(config.num_hidden_layers):
        shapes |= {f"layers.{i}.{name}.weight": shape for name, shape in layer.items()}
    return shapes


def _refuse_difference(folder: Path, expected: Shapes, found: Mapping[str, Tensor]) -> None:
    missing = sorted(expected.keys() - found.keys())
    left_over = sorted(found.keys() - expected.keys())
    wrong = [
        f"{name} of {found[name].file.name} is {list(found[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name].shape != shape
    ]
    problems = [
        ("lacks tensors", missing),
        ("has tensors that no part of the model uses", left_over),
        ("has tensors of the wrong shape", wrong),
    ]
    if missing or left_over or wrong:
        told = "; ".join(f"it {what}: {_few(names)}" for what, names in problems if names)
        raise CheckpointError(
            f"The weights in {folder} do not fit its config: {told}. If they belong to an adapter, merge it "
            "before saving (model = model.merge_and_unload(), with peft's PeftModel); else fetch the "
            "checkpoint again, or use the config they came with."
        )


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
