"""EmbeddingGemma 2: config.json as transformers reads it, its files' tensors, vectors of every precision."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import standin
import torch
import written
from ai_edge_litert import schema_py_generated as schema
from edits import change_tensors
from transformers import AutoConfig

from embedding_export.architectures.registry import read_figures, tensor_specs
from embedding_export.audit.audit import differences
from embedding_export.checkpoint.checkpoint import Checkpoint, load_checkpoint
from embedding_export.errors import CheckpointError
from embedding_export.litert.ops import Lengths
from embedding_export.litert.writer import write_litert
from embedding_export.onnx import ops as onnx_ops
from embedding_export.onnx.reader import score_scales
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_export.weights.encoder import Encoder
from embedding_export.weights.folding import folded
from embedding_export.weights.precisions import LITERT
from embedding_runtime.bundle import Precision, load_manifest
from embedding_runtime.engines.onnx_session import OnnxSession
from embedding_validate.gate import parity_gate
from embedding_validate.reference.reference import Reference
from embedding_validate.runners.litert_file import open_file

LAYOUTS: tuple[Any, ...] = ("published", "composite", "text")


@pytest.fixture(scope="module")
def checkpoint(tiny_second: Path) -> Checkpoint:
    return load_checkpoint(tiny_second)


@pytest.fixture(scope="module")
def reference(checkpoint: Checkpoint) -> Reference:
    torch.set_num_threads(1)
    return Reference.load(checkpoint)


@pytest.fixture
def folder(tiny_second: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_second, tmp_path / "checkpoint"))


def change(folder: Path, changes: dict[str, Any]) -> None:
    """Change keys of the text model's configuration; None takes one away."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    text = config.get("text_config", config)
    text |= changes
    for key in [k for k, v in changes.items() if v is None]:
        del text[key]
    path.write_text(json.dumps(config))


READ: dict[str, dict[str, Any]] = {
    "as it is": {},
    "no layer types": {"layer_types": None, "per_layer_config": None, "head_dim": 256},
    "a pattern": {
        "layer_types": None,
        "sliding_window_pattern": 2,
        "per_layer_config": None,
        "global_head_dim": 48,
        "num_global_key_value_heads": 4,
    },
    "keys without zeros": {"per_layer_config": {"2": {"head_dim": 48}, "5": {"head_dim": 48}}},
    "no figures": dict.fromkeys(
        ("hidden_size", "intermediate_size", "embedding_dim", "hidden_size_per_layer_input", "sliding_window")
    ),
    "other bases": {"rope_parameters": {"full_attention": {"rope_theta": 9.0, "rope_type": "default"}}},
    "an odd window": {"sliding_window": 257},
}


@pytest.mark.parametrize("case", READ)
def test_keys_are_read_as_transformers_reads_them(folder: Path, case: str) -> None:
    change(folder, READ[case])
    ours, repairs = read_figures(folder / "config.json")
    theirs = AutoConfig.from_pretrained(folder).text_config
    assert repairs.overrides == {} and repairs.notes == ()
    names = {"local": "sliding_attention", "global": "full_attention"}
    assert [names[kind] for kind in ours.layer_types] == theirs.layer_types
    assert (ours.window, ours.global_layer.window) == (theirs.sliding_window, None)
    for i, layer in enumerate(ours.layers):
        own = theirs.per_layer_config[i]
        assert (layer.head_dim, layer.kv_heads) == (own.head_dim, own.num_key_value_heads)
        assert layer.heads == theirs.num_attention_heads
    for layer, kind in ((ours.local_layer, "sliding_attention"), (ours.global_layer, "full_attention")):
        if kind in theirs.rope_parameters:
            assert layer.rope_theta == theirs.rope_parameters[kind]["rope_theta"]
    assert (ours.hidden_size, ours.intermediate_size) == (theirs.hidden_size, theirs.intermediate_size)
    assert (ours.output_size, ours.per_layer_size) == (
        theirs.embedding_dim,
        theirs.hidden_size_per_layer_input,
    )
    assert ours.attention_scale == 1.0


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a Gemma 4": ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention is 'all'.*Gemma 4"),
    "shared keys": ({"num_kv_shared_layers": 2}, "num_kv_shared_layers is 2"),
    "experts": ({"enable_moe_block": True}, "enable_moe_block is True"),
    "soft caps": ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
    "a partial rotation": (
        {"rope_parameters": {"full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25}}},
        "scaled or partial",
    ),
    "another figure of a layer": (
        {"per_layer_config": {"02": {"head_dim": 48, "intermediate_size": 9}}},
        "per_layer_config of layer 2 has intermediate_size",
    ),
    "a local layer of its own": ({"per_layer_config": {"00": {"head_dim": 48}}}, "one shape for all global"),
    "global layers that differ": ({"per_layer_config": {"02": {"head_dim": 48}}}, "one shape for all global"),
    "a layer that is not there": (
        {"per_layer_config": {"06": {"head_dim": 48}}},
        "the numbers of layers, 0 to 5",
    ),
    "a layer twice": ({"per_layer_config": {"2": {}, "02": {}}}, "the numbers of layers"),
    "heads that do not divide": ({"num_key_value_heads": 3, "per_layer_config": None}, "divisors of"),
    "a last layer that is local": (
        {"layer_types": ["full_attention"] + ["sliding_attention"] * 5},
        "at the end",
    ),
    "another text model": ({"model_type": "gemma4_text"}, "model_type is 'gemma4_text'"),
    "bits": ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config is"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_computed_is_refused_by_name(folder: Path, case: str) -> None:
    changes, words = REFUSED[case]
    change(folder, changes)
    with pytest.raises(CheckpointError, match=words):
        read_figures(folder / "config.json")


def test_another_window_is_not_taken(folder: Path) -> None:
    assert read_figures(folder / "config.json", 12)[1].notes == ()
    with pytest.raises(CheckpointError, match="sliding_window is 12, but 24 was requested"):
        read_figures(folder / "config.json", 24)


def test_other_models_are_told_which_are_known(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({"model_type": "gemma4", "text_config": {}}))
    with pytest.raises(
        CheckpointError, match=r"'gemma4'.*google/embeddinggemma-300m.*google/embeddinggemma-2"
    ):
        read_figures(path)


def test_layouts_hold_one_model(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """What stands beside the text model is named, and is no part of what makes vectors."""
    for layout in LAYOUTS:
        standin.write(tmp_path / layout, standin.Options(model="embeddinggemma-2", dialect=layout))
        other = load_checkpoint(tmp_path / layout)
        assert other.config == checkpoint.config
        assert other.source.weights_sha256 == checkpoint.source.weights_sha256
        left = [n for n in other.source.notes if "left out" in n]
        assert len(left) == (layout == "published")
    assert re.search(r"audio_tower, .*, vision_tower \(9 tensors\)", " ".join(checkpoint.source.notes))


def test_a_tower_may_hold_anything(folder: Path) -> None:
    before = load_checkpoint(folder).source.weights_sha256
    change_tensors(folder / "model.safetensors", lambda t: t.update(_odd_tower()))
    assert load_checkpoint(folder).source.weights_sha256 == before
    change_tensors(folder / "model.safetensors", lambda t: t.update({"other.weight": torch.ones(2)}))
    with pytest.raises(CheckpointError, match=r"that no part of the model uses: other\.weight"):
        load_checkpoint(folder)


def _odd_tower() -> dict[str, torch.Tensor]:
    return {
        "vision_tower.flag": torch.tensor(True),
        "audio_tower.bound": torch.tensor(float("inf")),
        "embed_audio.counts": torch.arange(3),
    }


def test_layers_have_rows_of_one_tensor(checkpoint: Checkpoint, tiny_second: Path) -> None:
    from safetensors.numpy import load_file

    stored = load_file(tiny_second / "model.safetensors")
    whole = stored["language_model.ple.per_layer_model_projection.weight"]
    own = [checkpoint.tensors[f"layers.{i}.per_layer_input.weight"] for i in range(6)]
    np.testing.assert_array_equal(np.concatenate([t.array() for t in own]), whole)
    np.testing.assert_array_equal(own[3].rows(5, 9), whole[3 * 128 + 5 : 3 * 128 + 9])


def test_a_row_too_few_is_refused(folder: Path) -> None:
    name = "language_model.ple.per_layer_model_projection.weight"
    change_tensors(folder / "model.safetensors", lambda t: t.update({name: t[name][:-1].clone()}))
    with pytest.raises(
        CheckpointError, match=r"ple\.per_layer_model_projection.*is \[767, 64\], expected \[768"
    ):
        load_checkpoint(folder)


@pytest.fixture(scope="module")
def graph(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> OnnxSession:
    return OnnxSession(written.write(checkpoint, tmp_path_factory.mktemp("graph"), "fp32"), 1)


def _expected(reference: Reference, text: written.Ids) -> tuple[written.Floats, written.Floats]:
    """Last hidden states and vector, by sentence-transformers' own modules."""
    model = reference._model
    features = {"input_ids": torch.from_numpy(text[None]), "attention_mask": torch.ones(1, len(text)).long()}
    with torch.inference_mode():
        found = model(features)
    return found["token_embeddings"][0].numpy(), found["sentence_embedding"][0].numpy()


def test_float32_is_the_reference(checkpoint: Checkpoint, reference: Reference, graph: OnnxSession) -> None:
    """Around the window of 12, and on both sides of the switch to blocks; alone and padded."""
    lengths = [2, 3, 12, 13, 14, 40, 511, 512, 513, 514, 1153, 2048]
    texts = written.texts(checkpoint, lengths)
    vectors = []
    for text in texts:
        states, vector = _expected(reference, text)
        found, own = graph.run(
            text[None], np.ones((1, len(text)), np.int64), ("last_hidden_state", "sentence_embedding")
        )
        assert found.shape[1:] == states.shape
        assert np.abs(own[0] - vector).max() < 1e-5
        assert np.linalg.norm(found[0] - states) < 1e-4 * np.linalg.norm(states)
        vectors.append(vector)
    ids = np.zeros((len(texts), 2048), np.int64)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = text
    mask = (np.arange(2048) < np.array(lengths)[:, None]).astype(np.int64)
    (together,) = graph.run(ids, mask, ("sentence_embedding",))
    assert np.abs(together - np.stack(vectors)).max() < 1e-5


@pytest.mark.parametrize(("window", "blocks"), [(12, 513), (300, 601), (512, 1025)])
def test_blocks_begin_beyond_two_windows(
    checkpoint: Checkpoint, window: int, blocks: int, tmp_path: Path
) -> None:
    """Keys of a block are at least two windows: up to so many tokens one block is less work."""
    wide = dataclasses.replace(checkpoint, config=written.with_local(checkpoint.config, window=window))
    path = written.write(wide, tmp_path, "fp32")
    model = onnx.load(str(path), load_external_data=False)
    model.graph.output.append(onnx.helper.make_tensor_value_info("blocks", onnx.TensorProto.INT64, None))
    onnx.save(model, str(path))
    for text in written.texts(checkpoint, [blocks - 1, blocks]):
        (count,) = OnnxSession(path, 1).run(text[None], np.ones((1, len(text)), np.int64), ("blocks",))
        assert (count[0] > 1) == (len(text) == blocks)
        found = written.run(path, [text])[0]
        assert np.abs(found - written.forward(wide.config, folded(wide), text, True)).max() < 1e-5


@pytest.fixture(scope="module")
def bundle(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every precision of both formats, as the gate lets it pass."""
    folder = tmp_path_factory.mktemp("bundles") / "second"
    precisions: Any = ("fp32", "fp16", "int8", "int8_q4", "int4", "mixed")
    options = ExportOptions(precisions, formats=("onnx", "litert"), buckets=(16, 64, 640))
    export_bundle(checkpoint, folder, options, parity_gate(checkpoint))
    return folder


def test_every_precision_passes(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    assert {g.key for g in manifest.graphs} == {
        *(f"onnx/{p}" for p in ("fp32", "fp16", "int8", "int8_q4", "int4")),
        *(f"litert/{p}" for p in ("fp32", "int8", "int8_q4", "int4", "mixed")),
    }
    assert {g.parity.status for g in manifest.graphs} == {"passed"}
    assert manifest.architecture.window == 12
    assert manifest.architecture.parameters == 4096 * 64 + sum(
        int(np.prod(s.shape))
        for n, s in tensor_specs(load_checkpoint_figures(bundle)).items()
        if "embed_tokens" not in n
    )


def load_checkpoint_figures(bundle: Path) -> Any:
    return read_figures(bundle / "config.json")[0]


def test_channels_are_evened_before_the_gate(checkpoint: Checkpoint, bundle: Path, tmp_path: Path) -> None:
    """By stored powers of two, which the audit reads and holds to the columns that undo them."""
    path = Path(shutil.copytree(bundle / "onnx", tmp_path / "onnx")) / "model_int8.onnx"
    assert differences(path, checkpoint)[1] == []
    model = onnx.load(str(path), load_external_data=False)
    (factors,) = (
        t for t in model.graph.initializer if t.name.startswith("layers.3.") and t.name.endswith(":inputs")
    )
    before = onnx.numpy_helper.to_array(factors)
    assert (np.frexp(before)[0] == 0.5).all() and before.min() < before.max()
    for change, words in (
        (2.0, "layers.3.ple_block.per_layer_input_gate.weight differs"),
        (3.0, "powers of two"),
    ):
        changed = before.copy()
        changed[1] *= np.float32(change)
        factors.raw_data = changed.tobytes()
        onnx.save(model, str(path))
        found = [f"{d.name} {d.words}" for d in differences(path, checkpoint)[1]]
        assert any(words in f for f in found), found


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_blocks_in_turn_are_the_same_to_the_last_bit(
    checkpoint: Checkpoint, precision: Precision, tmp_path: Path
) -> None:
    """Graphs for more than 2,048 tokens attend block after block, which changes nothing."""
    long = dataclasses.replace(checkpoint, max_seq_length=2304)
    for folder, made in (("short", checkpoint), ("long", long)):
        (tmp_path / folder).mkdir()
        written.write(made, tmp_path / folder, precision)
    short_path, long_path = (next((tmp_path / f).glob("*.onnx")) for f in ("short", "long"))
    kinds = {n.op_type for n in onnx.load(str(long_path), load_external_data=False).graph.node}
    assert "Scan" in kinds and "Softmax" not in kinds
    for text in written.texts(checkpoint, [2, 13, 512, 513, 1300]):
        np.testing.assert_array_equal(written.run(short_path, [text]), written.run(long_path, [text]))
    (text,) = written.texts(checkpoint, [2304])
    expected = written.forward(checkpoint.config, folded(checkpoint), text, True)
    assert float(written.run(long_path, [text])[0] @ expected) > (0.999 if precision == "int8" else 1 - 1e-6)
    if precision == "int8":
        assert score_scales(long_path) == score_scales(short_path) != []


def test_rotations_of_long_texts_are_computed(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: Any
) -> None:
    """From the same angles as stored ones, whose file would be longer."""
    texts, stored = written.texts(checkpoint, [40, 2048]), written.write(checkpoint, tmp_path, "fp32")
    expected = [written.run(stored, [text])[0] for text in texts]
    monkeypatch.setattr(onnx_ops, "STORED_ROTATIONS", 1000)
    (tmp_path / "computed").mkdir()
    path = written.write(checkpoint, tmp_path / "computed", "fp32")
    assert (
        path.with_name("model.onnx_data").stat().st_size < stored.with_name("model.onnx_data").stat().st_size
    )
    for text, vector in zip(texts, expected, strict=True):
        assert np.abs(written.run(path, [text])[0] - vector).max() < 2e-6


def test_a_trimmed_vocabulary_is_said_where_clients_look(checkpoint: Checkpoint, tmp_path: Path) -> None:
    options = ExportOptions(("fp32",), alphabet="latin")
    manifest = export_bundle(checkpoint, tmp_path / "bundle", options, "not asked")
    config = json.loads((tmp_path / "bundle" / "config.json").read_text())
    assert config["text_config"]["vocab_size"] == manifest.architecture.vocab_size < 4096
    assert "vocab_size" not in config


@pytest.mark.parametrize("file", ["model.onnx", "model_int8.onnx"])
def test_a_layers_own_input_waits_for_its_layer(bundle: Path, file: str) -> None:
    """Computed before, all of them would take 400 MB at 8,192 tokens; engines choose the order."""
    graph = onnx.load(str(bundle / "onnx" / file), load_external_data=False).graph
    made = {output: node for node in graph.node for output in node.output}
    for i in range(6):
        taken = made[made[f"layers.{i}.per_layer_input"].input[0]]
        assert taken.op_type == "Reshape" and made[taken.input[1]].op_type == "Shape"
        assert list(made[taken.input[1]].input) == [f"layers.{i}.feed_forward"]


def test_long_buckets_attend_in_turn(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Past 2,048 tokens queries of a global layer go block after block, the last of them a shorter one."""
    buckets = (2_048, 2_304 + 128)
    weights = folded(checkpoint)
    dim = checkpoint.config.hidden_size
    encoder = Encoder(checkpoint.config, weights, True, dim, buckets[-1], (tuple(range(5, 55)),))
    path = tmp_path / "long.tflite"
    lengths = [Lengths(b, buckets[-1], 0) for b in buckets]
    write_litert(encoder, path, LITERT["fp32"], lengths, lambda _: None)
    file = open_file(path, 1)
    short, full = written.texts(checkpoint, [1_300, buckets[-1]])
    first, second = (file.vector(short.tolist(), b) for b in buckets)
    np.testing.assert_allclose(first, second, atol=2e-6)
    expected = written.forward(checkpoint.config, weights, full, True)
    np.testing.assert_allclose(file.vector(full.tolist()), expected, atol=1e-5)
    model = schema.Model.GetRootAs(path.read_bytes())
    largest = [
        max(graph.Tensors(i).ShapeAsNumpy().prod() for i in range(graph.TensorsLength()))
        for graph in map(model.Subgraphs, range(2))
    ]
    assert largest[1] < largest[0], "the longer text's scores would be the larger"
