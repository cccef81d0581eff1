"""A checkpoint as a whole: every dialect gives the same, and what is missing or damaged is named."""

import json
import shutil
from pathlib import Path

import pytest
import standin
from edits import change, reference
from hypothesis import given, settings
from hypothesis import strategies as st
from standin_config import Dialect

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.errors import CheckpointError

SETTINGS = (
    "config",
    "dense",
    "normalize",
    "max_seq_length",
    "do_lower_case",
    "prompts",
    "default_prompt_name",
)


def test_the_stand_in_is_read_as_it_was_written(tiny_checkpoint: Path) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    written = json.loads((tiny_checkpoint / "config.json").read_text())
    for name in ("hidden_size", "intermediate_size", "vocab_size", "rms_norm_eps"):
        assert getattr(checkpoint.config, name) == written[name]
    assert len(checkpoint.config.layer_types) == written["num_hidden_layers"]
    for layer in checkpoint.config.layers:
        assert (layer.heads, layer.head_dim) == (written["num_attention_heads"], written["head_dim"])
    assert checkpoint.config.window == written["sliding_window"] // 2
    assert checkpoint.config.attention_scale == written["query_pre_attn_scalar"] ** -0.5
    assert [(s.in_features, s.out_features) for s in checkpoint.dense] == [(64, 160), (160, 64)]
    assert [(s.activation, s.bias) for s in checkpoint.dense] == [("identity", None)] * 2
    assert checkpoint.normalize
    assert checkpoint.prompts["query"] == "task: search result | query: "
    assert len(checkpoint.prompts) == 14
    assert checkpoint.path == tiny_checkpoint
    assert checkpoint.tokenizer.path == tiny_checkpoint / "tokenizer.json"
    names = {file.name for file in checkpoint.client_files}
    assert names >= {"config.json", "tokenizer.json", "tokenizer_config.json"}
    source = checkpoint.source
    assert (source.name, source.dtype) == (tiny_checkpoint.name, "float32")
    (note,) = source.notes
    assert "<image_soft_token>" in note
    assert (source.revision, source.qat, checkpoint.config_overrides) == (None, None, {})


@pytest.mark.parametrize("dialect", ["transformers-4", "transformers-5"])
@pytest.mark.parametrize("shards", [1, 4])
def test_dialects_and_shards_make_no_difference(
    tiny_checkpoint: Path, tmp_path: Path, dialect: Dialect, shards: int
) -> None:
    standin.write(tmp_path / "other", standin.Options(dialect=dialect, shards=shards))
    one, other = load_checkpoint(tiny_checkpoint), load_checkpoint(tmp_path / "other")
    assert [getattr(one, name) for name in SETTINGS] == [getattr(other, name) for name in SETTINGS]
    assert one.source.weights_sha256 == other.source.weights_sha256


def test_another_seed_is_another_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> None:
    standin.write(tmp_path / "other", standin.Options(seed=1))
    hashes = {load_checkpoint(f).source.weights_sha256 for f in (tiny_checkpoint, tmp_path / "other")}
    assert len(hashes) == 2


def test_what_the_reference_saves_anew_is_the_same(tiny_checkpoint: Path, tmp_path: Path) -> None:
    reference(tiny_checkpoint).save_pretrained(str(tmp_path / "anew"))
    before, after = load_checkpoint(tiny_checkpoint), load_checkpoint(tmp_path / "anew")
    assert [getattr(before, name) for name in SETTINGS] == [getattr(after, name) for name in SETTINGS]
    assert before.source.weights_sha256 == after.source.weights_sha256


QAT = "embeddinggemma-300m-qat-q4_0-unquantized"


@pytest.mark.parametrize(
    ("name", "qat"), [(QAT, "q4_0"), ("X-QAT-Q8_0-unquantized", "q8_0"), ("embeddinggemma-300m", None)]
)
def test_qat_is_told_from_the_name(editable: Path, name: str, qat: str | None) -> None:
    assert load_checkpoint(editable.rename(editable.parent / name)).source.qat == qat


def test_qat_is_told_from_the_name_in_the_config(editable: Path) -> None:
    change(editable / "config.json", {"_name_or_path": f"google/{QAT}"})
    assert load_checkpoint(editable).source.qat == "q4_0"


def test_client_and_licence_files_are_listed(editable: Path) -> None:
    licences = {"LICENSE", "LICENSE.md", "NOTICE.txt", "licence", "Terms_of_use.md"}
    for name in (*licences, "tokenizer.model", "README.md"):
        (editable / name).write_text("text")
    checkpoint = load_checkpoint(editable)
    assert "tokenizer.model" in {file.name for file in checkpoint.client_files}
    assert {file.name for file in checkpoint.license_files} == licences


MISSING = {
    "config.json": r"config\.json is missing",
    "modules.json": r"modules\.json is missing, so .* is not a sentence-transformers checkpoint",
    "tokenizer.json": r"tokenizer\.json is missing",
    "model.safetensors": "has no weights",
    "2_Dense/model.safetensors": "2_Dense has no weights",
    "2_Dense/config.json": r"2_Dense/config\.json is missing",
    "1_Pooling/config.json": r"1_Pooling/config\.json is missing",
}


@pytest.mark.parametrize("file", MISSING)
def test_missing_files_are_named(editable: Path, file: str) -> None:
    (editable / file).unlink()
    with pytest.raises(CheckpointError, match=MISSING[file]):
        load_checkpoint(editable)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe{}", b'{"a": ' * 100_000, b'"text"'])
@pytest.mark.parametrize("file", ["config.json", "sentence_bert_config.json", "tokenizer.json"])
def test_damaged_files_are_named(editable: Path, file: str, content: bytes) -> None:
    (editable / file).write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(editable)
    assert file in str(error.value)


JSON_FILES = (
    *("config.json", "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
    *("tokenizer_config.json", "tokenizer.json", "1_Pooling/config.json", "2_Dense/config.json"),
)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


@given(data=st.data())
@settings(max_examples=250, deadline=None)
def test_any_value_anywhere_is_read_or_refused(
    tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "any-value"
    if not folder.exists():
        shutil.copytree(tiny_checkpoint, folder)
    file = folder / data.draw(st.sampled_from(JSON_FILES))
    content = file.read_bytes()
    value = json.loads(content)
    place = data.draw(st.sampled_from(value)) if isinstance(value, list) else value
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(ANY_JSON)
    file.write_text(json.dumps(value))
    try:
        load_checkpoint(folder)
    except CheckpointError as error:
        assert str(folder) in str(error)
    finally:
        file.write_bytes(content)


def test_a_folder_in_a_files_place_is_named(editable: Path) -> None:
    (editable / "config.json").unlink()
    (editable / "config.json").mkdir()
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        load_checkpoint(editable)


def test_adapters_are_refused_with_the_way_to_merge(editable: Path) -> None:
    (editable / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{editable}"}}')
    (editable / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"adapter .*not merged.*merge_and_unload.*save_pretrained"):
        load_checkpoint(editable)
