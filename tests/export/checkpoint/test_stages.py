"""Stages after the encoder: what people's fine-tunes have is read, all else refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import standin
import torch
from edits import ABSENT, Fields, change, reference
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import Pooling

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.checkpoint.stages import Stages, read_stages
from embedding_export.errors import CheckpointError

Modules = list[dict[str, Any]]


def relist(folder: Path, apply: Callable[[Modules], object], renumber: bool = False) -> None:
    """Change the list of stages."""
    modules: Modules = json.loads((folder / "modules.json").read_text())
    apply(modules)
    if renumber:
        for i, module in enumerate(modules):
            module["idx"] = i
    (folder / "modules.json").write_text(json.dumps(modules))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("bias", "tanh"), [(True, True), (True, False), (False, True)])
def test_a_fine_tuned_dense_stage_is_read(
    tiny_checkpoint: Path, tmp_path: Path, bias: bool, tanh: bool, normalize: bool
) -> None:
    whole = list(reference(tiny_checkpoint))
    dense = Dense(64, 24, bias=bias, activation_function=torch.nn.Tanh() if tanh else None)
    tuned = SentenceTransformer(modules=[*whole[:2], dense, *(whole[4:] if normalize else [])])
    tuned.save_pretrained(str(tmp_path / "tuned"))
    checkpoint = load_checkpoint(tmp_path / "tuned")
    (stage,) = checkpoint.dense
    assert (stage.in_features, stage.out_features, stage.weight) == (64, 24, "dense.0.weight")
    assert stage.activation == ("tanh" if tanh else "identity")
    assert stage.bias == ("dense.0.bias" if bias else None)
    assert checkpoint.normalize is normalize
    weight = checkpoint.tensors[stage.weight].array()
    np.testing.assert_array_equal(weight, dense.linear.weight.detach().numpy())
    if stage.bias:
        added = checkpoint.tensors[stage.bias].array()
        np.testing.assert_array_equal(added, dense.linear.bias.detach().numpy())


def test_absent_settings_of_a_dense_stage_are_the_references(editable: Path) -> None:
    config = editable / "2_Dense" / "config.json"
    config.write_text(json.dumps({"in_features": 64, "out_features": 160, "bias": False}))
    theirs = reference(editable)[2]
    assert isinstance(theirs.activation_function, torch.nn.Tanh)
    assert load_checkpoint(editable).dense[0].activation == "tanh"


def test_no_dense_at_all_is_read(editable: Path) -> None:
    relist(editable, lambda m: m.__delitem__(slice(2, None)))
    checkpoint = load_checkpoint(editable)
    assert (checkpoint.dense, checkpoint.normalize) == ((), False)
    assert not [name for name in checkpoint.tensors if name.startswith("dense")]


def test_an_encoder_that_projects_is_pooled_at_its_own_size(tmp_path: Path) -> None:
    """EmbeddingGemma 2 has no Dense stage, and vectors of another size than its hidden states."""
    standin.write(tmp_path / "it", standin.Options(model="embeddinggemma-2"))
    assert read_stages(tmp_path / "it", 112) == Stages((), (), normalize=True)
    with pytest.raises(CheckpointError, match="embedding_dimension is 112; expected 64, the size of the enc"):
        read_stages(tmp_path / "it", 64)


FLAGS = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False, "pooling_mode_lasttoken": False}


@pytest.mark.parametrize(
    "fields",
    [
        {"embedding_dimension": 64, "pooling_mode": "mean", "include_prompt": True},
        {"embedding_dimension": 64, "pooling_mode": ["mean"]},
        {"embedding_dimension": 64, "pooling_mode": "mean", "pooling_mode_cls_token": True},
        {"word_embedding_dimension": 64, "include_prompt": True} | FLAGS,
        {"word_embedding_dimension": 64},
    ],
)
def test_every_spelling_of_the_mean_is_read_as_the_reference_does(editable: Path, fields: Fields) -> None:
    (editable / "1_Pooling" / "config.json").write_text(json.dumps(fields))
    load_checkpoint(editable)
    pooling = reference(editable)[1]
    assert isinstance(pooling, Pooling)
    assert (pooling.pooling_mode, pooling.include_prompt, pooling.embedding_dimension) == ("mean", True, 64)


REFUSED: list[tuple[str, Fields, str]] = [
    ("1_Pooling", {"pooling_mode": "lasttoken"}, "pooling is lasttoken; expected the mean"),
    ("1_Pooling", {"pooling_mode": ["mean", "max"]}, "pooling is .*; expected the mean"),
    ("1_Pooling", {"include_prompt": "no"}, "include_prompt is 'no'; expected true or false"),
    ("1_Pooling", {"embedding_dimension": 65}, "embedding_dimension is 65; expected 64"),
    ("1_Pooling", {"embedding_dimension": ABSENT, "word_embedding_dimension": ABSENT}, "is missing"),
    ("1_Pooling", {"weights": [1]}, "does not know: weights"),
    (
        "2_Dense",
        {"activation_function": "torch.nn.modules.activation.GELU"},
        "activation.GELU is not supported",
    ),
    ("2_Dense", {"activation_function": "mine.Tanh"}, r"mine\.Tanh is not supported"),
    ("2_Dense", {"activation_function": None}, "activation_function is None"),
    ("2_Dense", {"use_residual": True}, "use_residual is true"),
    ("3_Dense", {"in_features": 64}, "in_features is 64; expected 160, the size of the stage before"),
    ("2_Dense", {"out_features": ABSENT}, "out_features is missing; expected a positive integer"),
    ("2_Dense", {"bias": True}, r"2_Dense do not fit its config: it lacks tensors: linear\.bias"),
    ("2_Dense", {"bias": ABSENT}, r"lacks tensors: linear\.bias"),
    ("2_Dense", {"bias": "no"}, "bias is 'no'; expected true or false"),
    ("2_Dense", {"gate": True}, "does not know: gate"),
    ("2_Dense", {"module_input_name": "token_embeddings"}, "module_input_name is 'token_embeddings'"),
    ("3_Dense", {"module_output_name": "other"}, "module_output_name is 'other'"),
    ("4_Normalize", {"module_input_name": "token_embeddings"}, "module_input_name is 'token_embeddings'"),
]


@pytest.mark.parametrize(("stage", "fields", "message"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_stages_that_are_not_understood_are_refused(
    editable: Path, stage: str, fields: Fields, message: str
) -> None:
    change(editable / stage / "config.json", fields)
    with pytest.raises(CheckpointError, match=message) as error:
        load_checkpoint(editable)
    assert stage in str(error.value)


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        (["max_tokens"], "max"),
        (["mean_tokens", "cls_token"], "mean.*cls_token"),
        (["lasttoken"], "lasttoken"),
    ],
)
def test_pooling_by_flags_is_refused(editable: Path, flags: list[str], found: str) -> None:
    fields = {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": False}
    fields |= {f"pooling_mode_{flag}": True for flag in flags}
    (editable / "1_Pooling" / "config.json").write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match=f"pooling is .*{found}.*; expected the mean"):
        load_checkpoint(editable)


@pytest.mark.parametrize(
    "kind",
    [
        "sentence_transformers.models.WeightedLayerPooling",
        "sentence_transformers.sentence_transformer.modules.layer_norm.LayerNorm",
        "sentence_transformers.base.modules.router.Router",
        "sentence_transformers.sparse_encoder.modules.SpladePooling",
        "sentence_transformers.cross_encoder.modules.Dense",
        "modeling_mine.Dense",
    ],
)
def test_other_kinds_of_stages_are_refused_by_name(editable: Path, kind: str) -> None:
    relist(editable, lambda m: m[2].update(type=kind))
    with pytest.raises(CheckpointError, match=rf"the stage {kind} is not supported"):
        load_checkpoint(editable)


LISTS: list[tuple[Callable[[Modules], object], bool, str]] = [
    (lambda m: m[2].pop("type"), False, "the stage None is not supported"),
    (lambda m: m[0].update(kwargs=["task"]), False, r"takes arguments \(\['task'\]\)"),
    (lambda m: m.reverse(), False, r"numbers its stages \[4, 3, 2, 1, 0\]"),
    (lambda m: m[1].pop("idx"), False, r"numbers its stages \[0, None"),
    (lambda m: m.pop(1), True, "lists the stages Transformer, Dense"),
    (lambda m: m.insert(2, m.pop()), True, "Transformer, Pooling, Normalize, Dense, Dense; expected"),
    (lambda m: m.insert(3, dict(m[2])), True, "in_features is 64; expected 160"),
    (lambda m: m.clear(), False, "lists the stages ; expected Transformer"),
    (lambda m: m[2].update(path="../2_Dense"), False, "does not lie inside the checkpoint"),
    (lambda m: m[2].update(path="/2_Dense"), False, "does not lie inside the checkpoint"),
    (lambda m: m[2].pop("path"), False, "the path None does not lie"),
    (lambda m: m[0].update(path="0_Transformer"), False, "The encoder is in .*0_Transformer; expected"),
]


@pytest.mark.parametrize(("apply", "renumber", "message"), LISTS, ids=[str(i) for i in range(len(LISTS))])
def test_other_lists_of_stages_are_refused(
    editable: Path, apply: Callable[[Modules], object], renumber: bool, message: str
) -> None:
    relist(editable, apply, renumber)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(editable)


@pytest.mark.parametrize("content", ["{}", "[3]", "null", "]"])
def test_damaged_lists_of_stages_are_named(editable: Path, content: str) -> None:
    (editable / "modules.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"modules\.json is not"):
        load_checkpoint(editable)
