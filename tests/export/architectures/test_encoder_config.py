"""config.json: dialects and defaults as transformers reads them, the window rule, refusals by name."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from edits import ABSENT, Fields, change, reference
from transformers import AutoConfig

from embedding_export.architectures.interface.figures import Figures
from embedding_export.architectures.registry import read_figures
from embedding_export.checkpoint.checkpoint import Checkpoint, load_checkpoint
from embedding_export.errors import CheckpointError

LONG_TEXT = "one two three four five six seven eight nine ten " * 8
FIGURES = [
    *("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("vocab_size", "max_position_embeddings", "rms_norm_eps", "query_pre_attn_scalar", "sliding_window"),
]
# Neither dialect: the cases below add what they are about.
NO_ROPE: Fields = dict.fromkeys(
    ("rope_parameters", "rope_theta", "rope_local_base_freq", "rope_scaling"), ABSENT
)
NESTED = {"full_attention": {"rope_theta": 9.0}, "sliding_attention": {"rope_theta": 7.0}}

READ: dict[str, Fields] = {
    "no layer types": {"layer_types": ABSENT, "num_hidden_layers": 12},
    "null layer types": {"layer_types": None, "num_hidden_layers": 12},
    "a pattern": {"layer_types": ABSENT, "sliding_window_pattern": 3, "num_hidden_layers": 7},
    "an underscored pattern": {"layer_types": ABSENT, "_sliding_window_pattern": 3, "num_hidden_layers": 7},
    "no rope": {},
    "legacy rope": {"rope_theta": 500.0, "rope_local_base_freq": 70},
    "nested rope": {"rope_parameters": NESTED},
    "a null beside a nested rope": {"rope_parameters": NESTED, "rope_theta": None},
    "both ropes": {"rope_parameters": NESTED, "rope_theta": 500.0, "rope_local_base_freq": 70.0},
    "half a rope": {"rope_parameters": {"full_attention": {"rope_theta": 3.0}}, "rope_local_base_freq": 70.0},
    "no scaling": {"rope_scaling": {"rope_type": "default"}, "rope_theta": 500.0},
    "a window of 512": {"sliding_window": 512},
    "an odd window": {"sliding_window": 301},
    "no figures": dict.fromkeys(FIGURES, ABSENT),
}


@pytest.mark.parametrize("case", READ)
def test_keys_are_read_as_transformers_reads_them(editable: Path, case: str) -> None:
    change(editable / "config.json", NO_ROPE | READ[case])
    ours, repairs = read_figures(editable / "config.json")
    theirs = AutoConfig.from_pretrained(editable)
    assert repairs.overrides == {}
    names = {"local": "sliding_attention", "global": "full_attention"}
    assert [names[kind] for kind in ours.layer_types] == theirs.layer_types
    assert ours.window + 1 == theirs.sliding_window
    assert ours.global_layer.rope_theta == theirs.rope_parameters["full_attention"]["rope_theta"]
    assert ours.local_layer.rope_theta == theirs.rope_parameters["sliding_attention"]["rope_theta"]
    assert ours.global_layer.window is None
    for layer in (ours.local_layer, ours.global_layer):
        found = (layer.heads, layer.kv_heads, layer.head_dim)
        assert found == (theirs.num_attention_heads, theirs.num_key_value_heads, theirs.head_dim)
    assert ours.attention_scale == theirs.query_pre_attn_scalar**-0.5
    same = {f.name for f in dataclasses.fields(Figures)} & set(theirs.to_dict()) - {"layer_types"}
    assert {n: getattr(ours, n) for n in same} == {n: getattr(theirs, n) for n in same}
    assert len(same) == 6


def _about_windows(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Its notes, but for those on the tokenizer."""
    return tuple(n for n in checkpoint.source.notes if "sliding_window" in n)


def test_257_is_read_as_512_and_said(editable: Path) -> None:
    change(editable / "config.json", {"sliding_window": 257})
    checkpoint = load_checkpoint(editable)
    assert checkpoint.config.window == 256
    note = "sliding_window 257 of config.json read as 512: saving had halved it"
    assert _about_windows(checkpoint) == (note,)
    assert AutoConfig.from_pretrained(editable).sliding_window == 129  # what transformers makes of it alone
    assert AutoConfig.from_pretrained(editable, **checkpoint.config_overrides).sliding_window == 257


@pytest.mark.parametrize("found", [3, 5, 9, 17, 33, 65, 129, 513, 1025])
def test_other_halved_windows_are_refused_unless_told(editable: Path, found: int) -> None:
    change(editable / "config.json", {"sliding_window": found})
    message = rf"sliding_window is {found}, of the form 2\^k \+ 1.*--sliding-window .*512 most likely"
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(editable)
    meant = load_checkpoint(editable, sliding_window=found)
    assert (meant.config.window, meant.config_overrides, _about_windows(meant)) == (found // 2, {}, ())
    repaired = load_checkpoint(editable, sliding_window=400)
    assert (repaired.config.window, repaired.config_overrides) == (200, {"sliding_window": 201})
    assert _about_windows(repaired) == (
        f"sliding_window {found} of config.json replaced by 400, as requested",
    )


@pytest.mark.parametrize("found", [2, 4, 16, 64, 128, 256, 258, 510, 512, 514, 1024, 4096])
def test_even_windows_are_genuine(editable: Path, found: int) -> None:
    change(editable / "config.json", {"sliding_window": found})
    config, repairs = read_figures(editable / "config.json")
    assert (config.window, repairs.overrides, repairs.notes) == (found // 2, {}, ())


def test_257_can_be_meant(editable: Path) -> None:
    change(editable / "config.json", {"sliding_window": 257})
    assert read_figures(editable / "config.json", 257)[0].window == 128


@pytest.mark.parametrize("asked", [1, 0, -512])
def test_a_window_that_cannot_be_asked_for(editable: Path, asked: int) -> None:
    with pytest.raises(CheckpointError, match=r"requested sliding_window is .*; expected 2 or more"):
        load_checkpoint(editable, sliding_window=asked)


def test_the_reference_runs_the_repaired_window(tiny_checkpoint: Path, editable: Path) -> None:
    change(editable / "config.json", {"sliding_window": 9})  # 16, halved once
    repaired = load_checkpoint(editable, sliding_window=16)
    genuine = reference(tiny_checkpoint).encode(LONG_TEXT)
    told = reference(editable, repaired.config_overrides).encode(LONG_TEXT)
    np.testing.assert_array_equal(told, genuine)
    assert np.abs(reference(editable).encode(LONG_TEXT) - genuine).max() > 1e-3


LINEAR, YARN = {"rope_type": "linear", "factor": 8.0}, {"type": "yarn", "factor": 8.0}
LLAMA = {"full_attention": {"rope_type": "llama3", "rope_theta": 1e6}}

REFUSED: list[tuple[Fields, str]] = [
    ({"model_type": "bert"}, "model_type is 'bert'; expected one of 'gemma3_text'"),
    ({"model_type": "gemma2"}, "model_type is 'gemma2'"),
    ({"model_type": ABSENT}, "model_type is None"),
    ({"model_type": "gemma3", "text_config": {"a": 1}}, r"is 'gemma3' \(a text model wrapped"),
    ({"text_config": {"a": 1}}, r"is 'gemma3_text' \(a text model wrapped"),
    ({"use_bidirectional_attention": False}, "causal language model"),
    ({"use_bidirectional_attention": ABSENT}, "causal language model"),
    ({"use_bidirectional_attention": "true"}, "causal language model"),
    ({"is_causal": False}, "is_causal is False"),
    ({"quantization_config": {"quant_method": "gptq"}}, "quantized .quantization_config, gptq"),
    ({"quantization_config": {"load_in_4bit": True}}, "quantized .quantization_config, method unknown"),
    ({"hidden_activation": "gelu"}, "hidden_activation is 'gelu', which is not supported: .*tanh form"),
    ({"hidden_activation": "silu"}, "hidden_activation is 'silu'"),
    ({"attention_bias": True}, "attention_bias is True"),
    ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50"),
    ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30"),
    ({"auto_map": {"AutoModel": "modeling.Model"}}, "auto_map is"),
    ({"per_layer_config": {"1": {"head_dim": 16}}}, "per_layer_config is"),
    ({"partial_rotary_factor": 0.5}, r"partial_rotary_factor is 0\.5"),
    ({"rope_scaling": {"rope_type": "default", "rope_theta": 3.0}}, "rotary embeddings are scaled"),
    ({"rope_scaling": LINEAR}, "rotary embeddings are scaled .*linear"),
    ({"rope_scaling": YARN}, "rotary embeddings are scaled .*yarn"),
    ({"rope_parameters": LLAMA}, "rotary embeddings are scaled .*llama3"),
    ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, "rope_parameters has .'rope_theta'"),
    ({"rope_parameters": {"full_attention": {"rope_theta": "1e6"}}}, "rope_theta is '1e6'"),
    ({"rope_parameters": {"full_attention": [1e6]}}, "full_attention is .*; expected an object"),
    (NO_ROPE | {"rope_theta": -1.0}, r"rope_theta is -1\.0; expected a positive number"),
    ({"query_pre_attn_scalar": float("inf")}, "query_pre_attn_scalar is inf"),
    ({"rms_norm_eps": 10**400}, "rms_norm_eps is 1000.*; expected a positive number"),
    ({"num_hidden_layers": 0}, "num_hidden_layers is 0; expected a positive integer"),
    ({"hidden_size": 64.0}, r"hidden_size is 64\.0; expected a positive integer"),
    ({"hidden_size": None}, "hidden_size is None; expected a positive integer"),
    ({"head_dim": True}, "head_dim is True"),
    ({"head_dim": 33}, "head_dim is 33; expected an even number"),
    ({"num_key_value_heads": 3}, "num_key_value_heads is 3; expected a divisor"),
    ({"layer_types": ["full_attention"]}, "layer_types is .*; expected 5"),
    ({"layer_types": ["chunked_attention"] * 5}, "expected 5 .*sliding_attention"),
    ({"layer_types": [[]] * 5}, "expected 5 .*sliding_attention"),
    ({"layer_types": {"a": 5}}, "expected 5 .*sliding_attention"),
    ({"sliding_window": None}, "sliding_window is None"),
    ({"sliding_window": 1}, "sliding_window is 1; expected 2 or more"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_what_is_not_understood_is_refused_by_name(editable: Path, fields: Fields, message: str) -> None:
    change(editable / "config.json", fields)
    with pytest.raises(CheckpointError, match=message) as error:
        load_checkpoint(editable)
    assert str(editable / "config.json") in str(error.value)
