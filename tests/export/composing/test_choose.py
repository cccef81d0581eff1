"""The smallest composition that holds a cosine: on the tiny stand-in whose activations have outliers."""

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import standin
import written

from embedding_export import cli
from embedding_export.audit.audit import audit_graph
from embedding_export.bundle import describe
from embedding_export.bundle.golden import held_out_ids
from embedding_export.checkpoint.checkpoint import Checkpoint, load_checkpoint
from embedding_export.composing import held_out_texts
from embedding_export.composing.choose import EVERY, Trials, Wanted, choose
from embedding_export.errors import ExportError
from embedding_export.onnx.reader import read_stored
from embedding_export.onnx.writer import write_onnx
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_export.reporting import SILENT
from embedding_export.weights.calibration import calibrate
from embedding_export.weights.calibration_texts import TEXTS
from embedding_export.weights.encoder import Encoder
from embedding_export.weights.folding import folded
from embedding_export.weights.matrices import Matrices
from embedding_runtime import Embedder
from embedding_runtime.bundle import Manifest, load_manifest
from embedding_validate.gate import parity_gate

MB = re.compile(r"--max-size (\d+\.\d)MB")


@pytest.fixture(scope="module")
def outliers(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("outliers") / "tiny"
    standin.write(folder, standin.Options(outliers=True))
    return load_checkpoint(folder)


@pytest.fixture(scope="module")
def trials(outliers: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    texts = [tuple(t.tolist()) for t in written.texts(outliers, [20, 5, 60, 33, 9, 100] * EVERY)]
    weights, dim = folded(outliers), describe.embedding_dim(outliers)
    found = Matrices(outliers.config, weights, calibrate(outliers.config, weights, texts))
    longest = outliers.max_seq_length
    encoder = Encoder(
        outliers.config, weights, outliers.normalize, dim, longest, tuple(texts), shared=lambda: found
    )
    folder = tmp_path_factory.mktemp("trials")
    yield Trials(encoder, held_out_ids(outliers)[::2], folder / "trial", SILENT)
    assert not list(folder.iterdir())


def test_no_text_is_judged_by_that_was_calibrated_on() -> None:
    assert not set(TEXTS) & set(held_out_texts.TEXTS)
    assert len(set(held_out_texts.TEXTS)) == len(held_out_texts.TEXTS)
    named = list(held_out_texts.prompted({"query": "q: ", "document": "d: "}))
    assert [name for name, _ in named[:3]] == ["query", "document", "query"]
    assert {name for name, _ in held_out_texts.prompted({})} == {None}


def test_parts_get_8_bits_in_the_order_of_loss_saved_per_byte(trials: Trials) -> None:
    curve = choose(trials, Wanted(0.5)).composition.curve
    assert {p.part for p in curve} == {None, *trials.parts} and len(curve) == len(trials.parts) + 1
    gains = [
        (b.estimated_cosine - a.estimated_cosine, b.bytes - a.bytes) for a, b in itertools.pairwise(curve)
    ]
    worth = [cosine / max(1, size) for cosine, size in gains]
    assert worth == sorted(worth, reverse=True) and worth[0] > 3 * worth[-1] >= 0
    order = [p.part for p in curve if p.part]
    first, last = (trials.unseen([p for p in order if p not in kept]) for kept in (order[:2], order[-2:]))
    assert first.mean > last.mean and first.bytes < last.bytes


@pytest.mark.parametrize("target", [0.9, 0.96])
def test_the_target_is_held_by_the_graph_and_not_by_a_smaller_one(
    outliers: Checkpoint, trials: Trials, target: float, tmp_path: Path
) -> None:
    """Held against the forward pass in torch, by a graph that is written anew."""
    chosen = choose(trials, Wanted(target))
    path = tmp_path / chosen.row.onnx_file
    write_onnx(trials.encoder, path, lambda _: None, chosen.row)
    assert audit_graph(path, outliers) == 68
    cosines = []
    for ids in map(np.array, trials.held_out):
        right = written.reference(outliers, trials.encoder.weights, ids)
        cosines.append(float(written.run(path, [ids])[0] @ right))
    made = chosen.composition
    assert np.mean(cosines) >= target
    assert made.cosine_mean == pytest.approx(np.mean(cosines), abs=1e-5)
    assert made.cosine_min == pytest.approx(min(cosines), abs=1e-5)
    at = 1 + max(i for i, p in enumerate(made.curve[1:]) if made.bits[str(p.part)] == 8)
    assert made.curve[at].cosine == made.cosine_mean
    smaller = made.curve[at - 1].cosine
    assert smaller is not None and smaller < target
    kinds = {name: stored.kind for name, stored in read_stored(path).items()}
    assert kinds["embed_tokens.weight"] == f"int{made.bits['table']}"
    assert kinds["layers.0.self_attn.o_proj.weight"] == f"int{made.bits['early attention']}"
    assert kinds["layers.0.mlp.up_proj.weight"] == f"int{made.bits['early gates']}"
    last = len(outliers.config.layer_types) - 1
    assert kinds[f"layers.{last}.mlp.down_proj.weight"] == f"int{made.bits['late downs']}"


def test_a_target_out_of_reach_says_what_can_be_had(trials: Trials) -> None:
    with pytest.raises(ExportError, match=r"the most exact has mean cosine 0\.99") as refused:
        choose(trials, Wanted(0.99999))
    advised = re.search(r"at most (0\.\d+)", str(refused.value))
    assert advised
    assert choose(trials, Wanted(float(advised[1]))).composition.cosine_mean >= float(advised[1])


def test_a_size_out_of_reach_says_what_can_be_had(trials: Trials) -> None:
    """Whatever is advised is then granted."""
    whole = choose(trials, Wanted(0.96))
    size = trials.unseen([p for p, bits in whole.composition.bits.items() if bits == 4]).bytes
    assert choose(trials, Wanted(0.96, size)) == whole
    with pytest.raises(ExportError, match="Within") as refused:
        choose(trials, Wanted(0.96, size - 1))
    advised = re.search(r"--target-cosine (0\.\d+), or --max-size (\d+\.\d)MB", str(refused.value))
    assert advised
    assert choose(trials, Wanted(float(advised[1]), size - 1)).composition.cosine_mean < 0.96
    assert choose(trials, Wanted(0.96, round(float(advised[2]) * 1e6))) == whole
    with pytest.raises(ExportError, match="The smallest of all has mean cosine") as refused:
        choose(trials, Wanted(0.96, 1000))
    assert MB.search(str(refused.value))


def test_a_checkpoint_that_reads_next_to_nothing_is_refused(trials: Trials) -> None:
    with pytest.raises(ExportError, match="no text to judge"):
        choose(replace(trials, held_out=()), Wanted(0.9))


@pytest.fixture(scope="module")
def bundle(outliers: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Composed beside an fp32 graph, and judged by the reference."""
    folder = tmp_path_factory.mktemp("composed") / "bundle"
    export_bundle(outliers, folder, ExportOptions(("fp32",)), "not asked")
    options = ExportOptions(target_cosine=0.9, existing="extend")
    export_bundle(outliers, folder, options, parity_gate(outliers))
    return folder


def test_the_manifest_records_what_was_weighed(bundle: Path, outliers: Checkpoint) -> None:
    manifest = load_manifest(bundle)
    assert [g.key for g in manifest.graphs] == ["onnx/fp32", "onnx/int4"]
    plain, composed = manifest.graphs
    assert "composition" not in json.loads(manifest.to_json())["graphs"][0] and plain.composition is None
    made = composed.composition
    assert made and made.target_cosine == 0.9 and made.cosine_mean >= 0.9 > made.cosine_min - 0.2
    assert made.texts == len(held_out_ids(outliers)) and set(made.bits.values()) == {4, 8}
    size = sum(manifest.files[name].size for name in (composed.file, *composed.external_data))
    assert size in [p.bytes for p in made.curve if p.cosine == made.cosine_mean]
    assert composed.parity.status == "passed" and composed.parity.thresholds["target_cosine"] == 0.9
    for part, bits in made.bits.items():
        if part != "table":
            assert (part in composed.recipe["weights"]) == (bits == 4)
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_the_same_input_gives_the_same_bytes(bundle: Path, outliers: Checkpoint, tmp_path: Path) -> None:
    again = export_bundle(outliers, tmp_path / "b", ExportOptions(target_cosine=0.9), "not asked").graphs[0]
    first = load_manifest(bundle).graphs[1]
    assert (again.variant_id, again.composition) == (first.variant_id, first.composition)


def test_the_runtime_takes_a_composed_graph_before_an_unquantized_one(bundle: Path) -> None:
    with Embedder.load(bundle) as embedder:
        assert embedder.graph.key == "onnx/int4"


def test_the_gate_holds_a_graph_to_its_target(bundle: Path, outliers: Checkpoint) -> None:
    path = bundle / "manifest.json"
    text = path.read_text(encoding="utf-8")
    data = json.loads(text)
    data["graphs"][1]["composition"]["target_cosine"] = 0.999
    try:
        path.write_text(json.dumps(data), encoding="utf-8")
        verdict = parity_gate(outliers)(bundle)["onnx/int4"]
    finally:
        path.write_text(text, encoding="utf-8")
    assert verdict.status == "failed"
    assert re.search(
        r"mean cosine 0\.9\d+ of 42 texts .* is below 0.999, which it was made for", verdict.reason or ""
    )


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--target-cosine", "0.9", "--precision", "int4"], 2, "not allowed with"),
        (["--target-cosine", "1.5"], 1, "expected a number between 0 and 1"),
        (["--target-cosine", "nan"], 1, "expected a number between 0 and 1"),
        (["--target-cosine", "0.9", "--format", "litert"], 1, "composes only ONNX graphs"),
        (["--max-size", "200MB"], 1, "Add --target-cosine"),
        (["--target-cosine", "0.9", "--max-size", "200"], 2, "not a size such as 200MB"),
    ],
)
def test_what_cannot_be_asked_for(
    outliers: Checkpoint,
    arguments: list[str],
    status: int,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    try:
        found = cli.main([str(outliers.path), str(tmp_path / "b"), *arguments])
    except SystemExit as e:
        found = int(e.code or 0)
    assert (found, said in capsys.readouterr().err) == (status, True)
    assert not (tmp_path / "b").exists()


def test_a_checkpoint_trained_for_a_grid_keeps_it(outliers: Checkpoint, tmp_path: Path) -> None:
    trained = replace(outliers, source=replace(outliers.source, qat="q4_0"))
    with pytest.raises(ExportError, match="trained for Q4_0, which --precision int4 stores exactly"):
        export_bundle(trained, tmp_path / "b", ExportOptions(target_cosine=0.9), "not asked")


def test_a_checkpoint_that_leaves_prompts_out_of_the_mean(editable: Path, tmp_path: Path) -> None:
    """Its held-out texts run without prompts, in the exporter and in the gate."""
    pooling = editable / "1_Pooling" / "config.json"
    data = json.loads(pooling.read_text(encoding="utf-8"))
    pooling.write_text(json.dumps({**data, "include_prompt": False}), encoding="utf-8")
    checkpoint = load_checkpoint(editable)
    assert not checkpoint.include_prompt
    gate = parity_gate(checkpoint)
    (graph,) = export_bundle(checkpoint, tmp_path / "b", ExportOptions(target_cosine=0.97), gate).graphs
    made = graph.composition
    assert made and made.cosine_mean >= 0.97 and 4 in made.bits.values()
    assert made.texts == len(held_out_texts.TEXTS)
    assert graph.parity.status == "passed" and graph.parity.thresholds["target_cosine"] == 0.97


def test_the_second_model(tiny_second: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tiny_second)
    gate = parity_gate(checkpoint)
    (graph,) = export_bundle(checkpoint, tmp_path / "b", ExportOptions(target_cosine=0.9), gate).graphs
    made = graph.composition
    assert made and made.cosine_mean >= 0.9 and 4 in made.bits.values()
    assert len(made.bits) == len(made.curve) - 1 == 10
    assert graph.parity.status == "passed"
