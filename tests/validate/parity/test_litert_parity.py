"""LiteRT graphs go through the same checks: buckets' edges, what they say they do not take, execution."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import written
from ai_edge_litert.interpreter import Interpreter
from conftest import assumed, gate_answers

from embedding_export.architectures import registry
from embedding_export.architectures.interface.figures import Layer
from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.errors import ParityError
from embedding_export.litert import ops as litert_ops
from embedding_export.litert import writer as to_litert
from embedding_export.litert.file import FLOAT32, LitertFile, Value
from embedding_export.litert.reader import read_litert
from embedding_export.litert.storage import LitertStorage
from embedding_export.options import ExportOptions
from embedding_export.pipeline import Gate, export_bundle
from embedding_export.weights.calibration import Calibration
from embedding_export.weights.folding import ArrayWeight, Weights
from embedding_export.weights.matrices import Matrices
from embedding_export.weights.precisions import LitertFormat
from embedding_runtime.bundle import Precision, bundle_graphs, load_manifest
from embedding_validate.diagnosis import diagnosis
from embedding_validate.forward import rounded_ops
from embedding_validate.gate import parity_gate
from embedding_validate.parity import parity
from embedding_validate.parity.execution import Execution
from embedding_validate.reference.answers import Answers
from embedding_validate.reference.reference import Reference

pytest.importorskip("ai_edge_litert", reason="needs the litert extra")
BUCKETS = (32, 64, 160)


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("litert") / "bundle"
    options = ExportOptions(precisions=("fp32", "int8"), formats=("litert",), buckets=BUCKETS)
    export_bundle(load_checkpoint(tiny_checkpoint), folder, options, assumed)
    return folder


@pytest.fixture(scope="module")
def answers(reference: Reference) -> Answers:
    return gate_answers(reference, 700, BUCKETS)


def test_sound_graphs_pass(bundle: Path, answers: Answers, tiny_checkpoint: Path) -> None:
    asked = Execution(load_checkpoint(tiny_checkpoint), answers)
    report = parity.check(bundle, answers, execution=asked)
    assert report.passed
    fp32, int8 = (report.graphs[f"litert/{p}"] for p in ("fp32", "int8"))
    assert fp32.max_abs_error and fp32.max_abs_error.maximum < 1e-5
    executed = {c.tokens for c in int8.cases if c.check == "execution"}
    assert len(executed) >= 13 and executed >= set(BUCKETS)
    asked_lengths = {c.tokens for c in fp32.cases if c.check == "alone"}
    assert asked_lengths >= {3, 16, 32, 64, 80, 160} and max(asked_lengths) == 160
    assert all(c.ids_equal is not False for c in fp32.cases)
    longer = {(c.check, c.tokens) for c in fp32.cases if c.check.startswith("bucket")}
    assert longer == {("bucket 64", 3), ("bucket 64", 32), ("bucket 160", 3)}
    assert int8.invariance and int8.invariance.buckets is not None and int8.invariance.buckets < 1e-5
    assert fp32.groups["arrangement"]["chunked"].checks == 2


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_rounding_is_the_engines(
    kind: Literal["int8", "int4"], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """One product, with rows on both sides of zero, on one side of it, and of zeros."""
    rng = np.random.default_rng(0)
    weights, x = (rng.standard_normal((n, 128)).astype(np.float32) for n in (24, 6))
    x[1], x[2], x[3] = np.abs(x[1]) + 3, -np.abs(x[2]), np.zeros(128)
    x[4, 7] = 40
    tensors = {"w": ArrayWeight(weights)}
    config = dataclasses.replace(load_checkpoint(tiny_checkpoint).config, layer_types=())
    seen = Calibration(moments={"w": np.eye(128, dtype=np.float32)})
    matrices = Matrices(config, Weights(tensors, ()), seen)
    with (tmp_path / "weights").open("w+b") as data:
        file = LitertFile(data, lambda _: None)
        storage = LitertStorage(file, Weights(tensors, ()), lambda _: LitertFormat(kind, 32), matrices)
        signature = file.signature("product")
        product = storage.multiply(signature, signature.input("x", x.shape, FLOAT32), "w")
        signature.output("y", product)
        file.write(tmp_path / "m.tflite", "")
    run = Interpreter(model_path=str(tmp_path / "m.tflite"), num_threads=1).get_signature_runner("product")
    stored = torch.from_numpy(read_litert(tmp_path / "m.tflite")["w"].array())
    expected = (rounded_ops.tokens(torch.from_numpy(x)) @ stored.T).numpy()
    np.testing.assert_allclose(run(x=x)["y"], expected, atol=3e-5)
    assert np.abs(expected - x @ stored.T.numpy()).max() > 1e-2


def test_skipped_probes_are_noted(bundle: Path, answers: Answers) -> None:
    """One text has more tokens than the largest bucket, and one here a literal <pad>, read as such."""
    padded = dataclasses.replace(answers.by_probe["en-short"], ids=(2, 0, 1))
    answers = dataclasses.replace(answers, by_probe={**answers.by_probe, "en-short": padded})
    report = parity.check(bundle, answers)
    asked = {c.probe for c in report.graphs["litert/fp32"].cases}
    assert {p.id for p in answers.probes.probes} - asked == {"length-600", "en-short"}
    assert len(report.notes) == 1 and "160 tokens" in report.notes[0]
    assert report.notes[0].startswith("litert/fp32, litert/int8: skipped 2 of")


def test_a_dropped_prompt_shows_in_the_ids(bundle: Path, answers: Answers, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    data = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    data["prompts"]["query"] = ""
    (copy / "manifest.json").write_text(json.dumps(data), encoding="utf-8")
    graph = bundle_graphs(copy, load_manifest(copy))[0]
    failed = [c for c in parity.check_graph(graph, answers).cases if c.failures]
    assert {c.probe for c in failed if c.check == "alone"} == {
        "en-question/prompt query",
        "en-question/query",
    }
    assert all("token ids differ from position 1" in c.failures[0] for c in failed if c.check == "alone")


def test_a_fault_is_named(
    tiny_checkpoint: Path, answers: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By vectors alone, on the file's own int8 weights."""
    true, checkpoint = registry.encode, load_checkpoint(tiny_checkpoint)

    def encode(ops: Any, config: Any, dense: Any, normalize: bool) -> Any:
        return true(ops, written.with_local(config, window=config.window - 1), dense, normalize)

    monkeypatch.setattr(to_litert, "encode", encode)
    options = ExportOptions(precisions=("int8",), formats=("litert",), buckets=BUCKETS)
    export_bundle(checkpoint, tmp_path / "bundle", options, assumed)
    monkeypatch.undo()
    report = parity.check(tmp_path / "bundle", answers, execution=Execution(checkpoint, answers))
    report = diagnosis.diagnose(tmp_path / "bundle", report, Reference.load(checkpoint), answers)
    findings = report.graphs["litert/int8"].findings
    assert [f.name for f in findings] == ["window off by one (too narrow)"]


@pytest.fixture(scope="module")
def gate(tiny_checkpoint: Path) -> Gate:
    """The exporter's, shared: the reference answers once for each set of buckets."""
    return parity_gate(load_checkpoint(tiny_checkpoint))


def _padding_counts(length: int) -> Callable[[pytest.MonkeyPatch], None]:
    """In one length, keys beyond the text are attended to."""
    true = litert_ops.LitertOps._padding_bias

    def planted(self: litert_ops.LitertOps, first: int, blocks: int, side: int) -> Value:
        bias = true(self, first, blocks, side)
        return self._mul(bias, np.zeros(1, np.float32)) if self.length == length else bias

    return lambda patch: patch.setattr(litert_ops.LitertOps, "_padding_bias", planted)


def _narrow_window(length: int) -> Callable[[pytest.MonkeyPatch], None]:
    """In one length, local layers attend to the token itself alone; padding is masked as it should."""
    true = litert_ops.LitertOps.attention

    def planted(self: litert_ops.LitertOps, q: Value, k: Value, v: Value, layer: Layer) -> Value:
        narrow = layer.window is not None and self.length == length
        return true(self, q, k, v, dataclasses.replace(layer, window=0) if narrow else layer)

    return lambda patch: patch.setattr(litert_ops.LitertOps, "attention", planted)


def _short_texts_padding_counts(length: int) -> Callable[[pytest.MonkeyPatch], None]:
    """In one length, as long as it is less than half full: texts that the runtime runs there are right."""
    true = litert_ops.LitertOps._padding_bias

    def planted(self: litert_ops.LitertOps, first: int, blocks: int, side: int) -> Value:
        second_half = (np.arange(self.length) > self.length // 2).astype(np.float32)
        bias = true(self, first, blocks, side)
        return self._mul(bias, second_half) if self.length == length else bias

    return lambda patch: patch.setattr(litert_ops.LitertOps, "_padding_bias", planted)


@pytest.mark.parametrize(
    ("precision", "plant", "bucket"),
    [
        ("fp32", _padding_counts, 64),
        ("int8", _padding_counts, 768),
        ("mixed", _narrow_window, 768),
        ("int4", _narrow_window, 64),
        ("mixed", _short_texts_padding_counts, 64),
    ],
)
def test_a_wrong_bucket_is_named(
    precision: Precision,
    plant: Callable[[int], Callable[[pytest.MonkeyPatch], None]],
    bucket: int,
    tiny_checkpoint: Path,
    gate: Gate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of three lengths one computes something else."""
    plant(bucket)(monkeypatch)
    options = ExportOptions(precisions=(precision,), formats=("litert",), buckets=(32, 64, 768))
    diagnosis = ".*vectors change with the bucket" if plant is _short_texts_padding_counts else ""
    with pytest.raises(ParityError, match=f"all of those alone in bucket {bucket}[^0-9,]{diagnosis}"):
        export_bundle(load_checkpoint(tiny_checkpoint), tmp_path / "bundle", options, gate)
    assert list(tmp_path.iterdir()) == []
