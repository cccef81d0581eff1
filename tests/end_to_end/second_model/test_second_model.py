"""EmbeddingGemma 2 as its users meet it: `make demo`, dims, tasks, spaces, recipes, lengths, reference."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import standin
import standin2_config
import torch
from conftest import assumed

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.litert.reader import read_litert
from embedding_export.onnx.reader import read_stored
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime import Embedder, InputError, check_space, make_stamp
from embedding_runtime.bundle import load_manifest
from embedding_validate.compare import cli as compare
from embedding_validate.ladder import cli as ladder
from embedding_validate.ladder import document, sets
from embedding_validate.reference.checks import ReferenceLoadError
from embedding_validate.reference.reference import Reference

ROOT = Path(__file__).parents[3]
TEXTS = ["red", "Which planet is the red one?", "Mars, it is said."]
# 2,281 tokens: what comes after the first 2,048 is about something else.
LONG = "mars " * 1_000 + "stone river " * 140


@pytest.fixture(scope="module")
def reference(tiny_second: Path) -> Reference:
    torch.set_num_threads(1)
    return Reference.load(load_checkpoint(tiny_second))


@pytest.fixture(scope="module")
def bundle(tiny_second: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every precision of both formats."""
    folder = tmp_path_factory.mktemp("second") / "bundle"
    precisions: Any = ("fp32", "fp16", "int8", "int8_q4", "int4", "mixed")
    options = ExportOptions(precisions, formats=("onnx", "litert"), buckets=(16, 64))
    export_bundle(load_checkpoint(tiny_second), folder, options, assumed)
    return folder


@pytest.fixture
def embedder(bundle: Path) -> Iterator[Embedder]:
    with Embedder(bundle, threads=1, precision="fp32", format="onnx") as opened:
        yield opened


def test_make_demo(tiny_second: Path, tmp_path: Path) -> None:
    """README's first command, word for word, with this environment's Python."""
    command = ["make", "demo", f"CHECKPOINT={tiny_second}", f"DEMO={tmp_path}"]
    command += [f"BIN={Path(sys.executable).parent}", "-o", ".venv/.ready"]
    of_make = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")
    environment = {n: v for n, v in os.environ.items() if n not in of_make} | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    manifest = load_manifest(tmp_path / "bundle")
    assert {g.key: g.parity.status for g in manifest.graphs} == {
        "onnx/fp32": "passed",
        "onnx/int8": "passed",
    }
    assert "Left out" not in ran.stdout, "it has every prompt of the tutorial's steps"
    difference = re.search(r"^Largest difference shown: (\S+)$", ran.stdout, re.M)
    assert difference and 0 < float(difference[1]) < 0.1


@pytest.mark.parametrize("size", [768, 512])
def test_dims_are_those_it_was_trained_for(size: int, tmp_path: Path, monkeypatch: Any) -> None:
    """Of vectors of 768; fewer components come renormalised, as the reference's."""
    shape = dataclasses.replace(standin.SHAPES_2["tiny"], embedding=size)
    monkeypatch.setitem(standin.SHAPES_2, "tiny", shape)
    standin.write(tmp_path / "checkpoint", standin.Options(model="embeddinggemma-2"))
    checkpoint = load_checkpoint(tmp_path / "checkpoint")
    manifest = export_bundle(checkpoint, tmp_path / "bundle", ExportOptions(("fp32",)), assumed)
    assert manifest.dims == ((768, 512, 256, 128) if size == 768 else (512,))
    whole = Reference.load(checkpoint).encode(TEXTS)
    with Embedder(tmp_path / "bundle", threads=1) as embedder:
        for dim in manifest.dims:
            cut = whole[:, :dim] / np.linalg.norm(whole[:, :dim], axis=1, keepdims=True)
            np.testing.assert_allclose(embedder.encode(TEXTS, dim=dim), cut, atol=1e-5)


def test_every_prompt_is_a_task(embedder: Embedder, reference: Reference) -> None:
    assert len(embedder.prompts) == 20 and embedder.prompts == standin2_config.PROMPTS_2
    for name in embedder.prompts:
        expected = reference.encode(TEXTS, prompt_name=name)
        np.testing.assert_allclose(embedder.encode(TEXTS, task=name), expected, atol=1e-5)
        np.testing.assert_allclose(embedder.encode(TEXTS, task=name.upper()), expected, atol=1e-5)


def test_tasks_have_the_names_that_their_prompts_say(bundle: Path, tiny_bundle: Path) -> None:
    """Summarization is sentence similarity here, and no longer a task of its own."""
    assert load_manifest(bundle).aliases == {
        "search result": "query",
        "code retrieval": "CodeRetrieval",
        "fact checking": "FactChecking",
        "question answering": "QuestionAnswering",
        "sentence similarity": "PairClassification",
    }
    first, second = load_manifest(tiny_bundle).prompts, load_manifest(bundle).prompts
    assert first["Summarization"] == "task: summarization | query: "
    assert second["Summarization"] == second["STS"] == "task: sentence similarity | query: "
    changed = {name for name in first if first[name] != second[name]}
    assert changed == {"Summarization"}


def test_a_search_does_not_mix_the_two_models(bundle: Path, tiny_bundle: Path) -> None:
    manifests = load_manifest(tiny_bundle), load_manifest(bundle)
    assert manifests[0].space_id != manifests[1].space_id
    with Embedder(tiny_bundle, threads=1) as first:
        stamp = make_stamp(first)
    with pytest.raises(InputError, match="Scores between them mean nothing"):
        check_space(stamp, bundle)


def test_a_space_is_the_model_and_its_tokenizer(tiny_second: Path, tmp_path: Path, bundle: Path) -> None:
    """The same in every layout of the files; another of other weights."""
    changes: tuple[dict[str, Any], ...] = ({"dialect": "composite"}, {"dialect": "text"}, {"seed": 1})
    for number, options in enumerate(changes):
        folder = tmp_path / str(number)
        standin.write(folder, standin.Options(model="embeddinggemma-2", **options))
        made = export_bundle(load_checkpoint(folder), folder / "b", ExportOptions(("fp32",)), assumed)
        assert (made.space_id == load_manifest(bundle).space_id) == ("seed" not in options)


def test_recipes_say_what_became_of_the_layers_own_inputs(bundle: Path, tiny_bundle: Path) -> None:
    """And what they say is in the files."""
    own = ("per_layer_input", "ple_block.per_layer_input_gate", "ple_block.per_layer_projection")
    for graph in load_manifest(bundle).graphs:
        path = bundle / graph.file
        stored = (read_litert if graph.format == "litert" else read_stored)(path)
        kinds = {stored[f"layers.3.{name}.weight"].kind for name in own}
        told = graph.recipe["per-layer"]
        if graph.precision in ("fp32", "fp16"):
            assert kinds == {told} == {graph.recipe["weights"]}
        else:
            assert kinds == {"int8"} and "int8" in told
            assert stored["layers.3.ple_block.per_layer_projection.weight"].turned and "turned" in told
            assert "layers.3.ple_block.per_layer_input_gate.weight:inputs" in stored and "powers" in told
        assert stored["embedding_projection.weight"].kind == graph.recipe["projection"]
    assert all("per-layer" not in graph.recipe for graph in load_manifest(tiny_bundle).graphs)


@pytest.fixture(scope="module")
def long_bundle(tiny_second: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For more tokens than a bundle takes where nothing is asked for."""
    folder = tmp_path_factory.mktemp("second") / "long"
    checkpoint = load_checkpoint(tiny_second, max_length=2_304)
    export_bundle(checkpoint, folder, ExportOptions(("fp32",)), assumed)
    return folder


def test_the_ladder_reads_texts_as_long_as_the_bundle(
    long_bundle: Path, tiny_second: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    few = sets.Search(("mars", "stone"), (LONG, "A stone in a river."))
    monkeypatch.setattr(sets, "numpy_search", lambda: few)
    command = [str(long_bundle), "--reference", str(tiny_second), "--output", str(tmp_path), "--threads", "1"]
    assert ladder.main([*command, "--lengths", "16"]) == 0
    found = document.load(tmp_path / "ladder.json")
    assert found.rungs[1].name == "onnx/fp32" and found.rungs[1].quality[0].cosine_min > 0.999999


def test_a_comparison_reads_texts_as_long_as_the_bundle(
    long_bundle: Path, tiny_second: Path, tmp_path: Path
) -> None:
    (tmp_path / "corpus.txt").write_text(f"{LONG}\nA stone in a river.\nmars\nred planets\n")
    command = [str(long_bundle), "--reference", str(tiny_second), "--corpus", str(tmp_path / "corpus.txt")]
    quick = ["--threads", "1", "--seconds", "0.05", "--rounds", "3", "--lengths", "16,2304"]
    assert compare.main([*command, *quick, "--output", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "compare.json").read_text())["runs"][0]
    assert found["corpus"]["failures"] == {} and found["corpus"]["base"] == "torch fp32"
    ours = [r for r in found["corpus"]["rows"] if r["system"] == "onnx/fp32"]
    (row,) = (r for r in ours if r["vector_precision"] == "float32")
    assert row["shift_most"] < 1e-5
    assert {c["tokens"] for c in found["cases"] if c["system"] == "onnx/fp32"} == {16, 2304}


def test_8192_tokens_are_the_references(tiny_second: Path, tmp_path: Path) -> None:
    """The longest text that a bundle takes, alone and beside a short one; in LiteRT also one of 17 blocks, of
    which 16 attend at once."""
    checkpoint = load_checkpoint(tiny_second, max_length=8_192)
    options = ExportOptions(("fp32",), formats=("onnx", "litert"), buckets=(2_176, 8_192))
    export_bundle(checkpoint, tmp_path / "bundle", options, assumed)
    long = " ".join(f"{word} {i}" for i in range(700) for word in ("mars", "stone river", "planet"))
    reference = Reference.load(checkpoint)
    assert len(reference.token_ids(long)) == 8_192 < reference.count(long)
    expected = reference.encode([long, "red"])
    with Embedder(tmp_path / "bundle", threads=1) as embedder:
        np.testing.assert_allclose(embedder.encode(["red", long], batch_size=2)[::-1], expected, atol=1e-5)
        np.testing.assert_allclose(embedder.encode(long), expected[0], atol=1e-5)
    middle = long[:3_000]
    assert 2_048 < len(reference.token_ids(middle)) <= 2_176
    with Embedder.load(tmp_path / "bundle", format="litert", threads=1) as embedder:
        np.testing.assert_allclose(embedder.encode(long), expected[0], atol=1e-5)
        np.testing.assert_allclose(embedder.encode(middle), reference.encode([middle])[0], atol=1e-5)


def test_the_reference_is_for_text_alone(reference: Reference) -> None:
    """Loaded from the published files, cut at the bundle's length, without their processor."""
    model: Any = reference._model
    assert type(model[0].auto_model).__name__ == "EmbeddingGemma2Model"
    assert type(model.tokenizer).__name__.startswith(("PreTrained", "Gemma", "Tokenizers"))
    assert not any("vision" in name or "audio" in name for name, _ in model.named_parameters())
    assert reference.max_seq_length == 2_048
    assert len(reference.token_ids("mars " * 5_000)) == 2_048


def test_random_weights_are_refused_by_name(tiny_second: Path, tmp_path: Path) -> None:
    """A config.json of the text model alone beside the published weights: transformers only warns."""
    folder = Path(shutil.copytree(tiny_second, tmp_path / "checkpoint"))
    config = json.loads((folder / "config.json").read_text())
    own = config["text_config"] | {"architectures": ["EmbeddingGemma2TextModel"]}
    (folder / "config.json").write_text(json.dumps(own))
    with pytest.raises(ReferenceLoadError, match=r"EmbeddingGemma2TextModel, and .* random numbers"):
        Reference.load(load_checkpoint(folder))
