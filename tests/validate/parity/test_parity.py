"""Parity: sound bundles pass, and each kind of difference is seen and named in the report."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import standin
import torch

from embedding_export.checkpoint.checkpoint import Checkpoint, load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime.bundle import GoldenVector, Precision, load_manifest
from embedding_runtime.embedder import Embedder
from embedding_runtime.errors import BundleError, InputError
from embedding_validate.diagnosis import diagnosis
from embedding_validate.gate import parity_gate
from embedding_validate.measures.metrics import Figures
from embedding_validate.measures.thresholds import LOSS, RANDOM_LOSS, bounds
from embedding_validate.parity import parity
from embedding_validate.parity.execution import Executed, Execution
from embedding_validate.parity.results import TOKEN_STATES, Case, Invariance
from embedding_validate.parity.verdict import Results, graph_report
from embedding_validate.probes import probes, texts
from embedding_validate.reference.answers import Answers
from embedding_validate.reference.reference import Reference
from embedding_validate.report import table

FP32_ONLY = ExportOptions(precisions=("fp32",))
Edit = Callable[[dict[str, Any]], None]


def export(checkpoint: Path, bundle: Path) -> Path:
    export_bundle(load_checkpoint(checkpoint), bundle, FP32_ONLY, "checked by the test itself")
    return bundle


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(tiny_checkpoint)


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tiny_checkpoint, tmp_path_factory.mktemp("parity") / "bundle")


@pytest.fixture(scope="module")
def answers(checkpoint: Checkpoint) -> Answers:
    torch.set_num_threads(1)
    loaded = Reference.load(checkpoint)
    return loaded.answer(probes.short(texts.packaged(), loaded.prompts, loaded.limits, loaded.count))


@pytest.fixture(scope="module")
def few(answers: Answers) -> Answers:
    """The answers to short probes alone, for tests that need no long text."""
    kept = tuple(p for p in answers.probes.probes if len(answers.by_probe[p.id].ids) <= 200)
    chosen = dataclasses.replace(answers.probes, probes=kept, batches=(("en-short", "zh-hans"),))
    return dataclasses.replace(answers, probes=chosen)


@pytest.fixture
def edited(bundle: Path, tmp_path: Path) -> Callable[[Edit], Path]:
    """A copy of the bundle whose manifest was changed."""

    def edit(change: Edit) -> Path:
        copy = tmp_path / "edited"
        shutil.copytree(bundle, copy)
        path = copy / "manifest.json"
        data = json.loads(path.read_text(encoding="utf-8"))
        change(data)
        path.write_text(json.dumps(data), encoding="utf-8")
        return copy

    return edit


def test_a_sound_bundle_passes(bundle: Path, answers: Answers) -> None:
    report = parity.check(bundle, answers)
    graph = report.graphs["onnx/fp32"]
    assert report.passed and graph.status == "passed" and graph.reason is None
    assert graph.variant_id == load_manifest(bundle).graphs[0].variant_id
    assert graph.texts == len(answers.probes.probes) and graph.failed == 0
    assert graph.cosine and graph.cosine.minimum >= 0.999999
    assert graph.max_abs_error and 0 < graph.max_abs_error.maximum <= 1e-5
    assert report.notes == ()
    assert graph.norm_error and graph.norm_error.maximum < 1e-6 and graph.not_finite == 0
    assert graph.ids_compared == len([c for c in graph.cases if c.check == "alone"]) and graph.ids_differ == 0
    states = [c for c in graph.cases if c.check == TOKEN_STATES]
    assert [c.probe for c in states] == list(answers.probes.dims)
    assert all(c.figures.cosine > 0.999999 and c.figures.max_abs_error < 1e-6 for c in states)
    assert graph.scores and graph.scores.texts > 20 and graph.scores.largest < 1e-5
    assert graph.ranking is None, "no library is searched before a bundle has its name"
    same = graph.invariance
    assert same and same.runs == 0 and same.batch is not None and same.batch < 1e-5
    assert same.threads is not None and same.threads < 1e-5 and same.buckets is None
    whole = [p for p in answers.probes.probes if p.chunked_at is None]
    assert sum(g.checks for g in graph.groups["length"].values()) == len(whole)
    assert {"Latin", "Emoji", "Length"} <= graph.groups["script"].keys()
    assert {"none", "query", "STS", "encode_query", "encode_document with title"} <= graph.groups[
        "prompt"
    ].keys()
    assert graph.failed_texts == {}
    arrangements = {c.check for c in graph.cases}
    wanted = {"alone", "batch 1", "batch 2", "dim 64", "dim 64, not normalised", "chunked", TOKEN_STATES}
    assert wanted <= arrangements
    assert all(c.ids_equal for c in graph.cases if c.check == "alone")


def test_checks_every_dim(edited: Callable[[Edit], Path], few: Answers) -> None:
    report = parity.check(edited(lambda m: m.update(dims=[64, 32, 16])), few)
    found = {c.check for c in report.graphs["onnx/fp32"].cases if c.check.startswith("dim")}
    assert found == {f"dim {d}{n}" for d in (64, 32, 16) for n in ("", ", not normalised")}
    assert report.passed


def test_searches_a_library(bundle: Path, checkpoint: Checkpoint, edited: Callable[[Edit], Path]) -> None:
    """Queries find documents as in the reference, and others once their prompt is lost."""
    loaded = Reference.load(checkpoint)
    chosen = probes.full(texts.packaged(), loaded.prompts, loaded.limits, loaded.count)
    shelf = tuple(p for p in chosen.probes if p.script == "Library")
    answers = loaded.answer(dataclasses.replace(chosen, probes=shelf, batches=(), dims=()))
    sound = parity.check(bundle, answers).graphs["onnx/fp32"].ranking
    assert sound and (sound.queries, sound.documents, sound.top_k) == (16, 36, 10)
    assert sound.top_k_overlap == 1 and sound.spearman > 0.9999
    wrong = edited(lambda m: m["prompts"].update(query=m["prompts"]["document"]))
    lost = parity.check(wrong, answers).graphs["onnx/fp32"].ranking
    assert lost and lost.top_k_overlap < 0.95 and lost.kendall < lost.spearman < 0.95


def test_progress(bundle: Path, few: Answers) -> None:
    seen: list[tuple[str, int, int]] = []
    parity.check(bundle, few, lambda *p: seen.append(p))
    assert seen[0] == ("onnx/fp32", 0, len(seen)) and seen[-1][1] == len(seen) - 1


def _drop_prompt(m: dict[str, Any]) -> None:
    del m["prompts"]["STS"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m: m["prompts"].update(STS="task: other | query: "), "prompt 'STS' is 'task: other"),
        (_drop_prompt, "prompt 'STS' is None instead of 'task: sentence similarity"),
        (lambda m: m["prompts"].update(query="query: "), "prompt 'query' is 'query: '"),
        (lambda m: m.update(max_seq_length=1024), "max_seq_length is 1024 instead of 2048"),
        (lambda m: m.update(default_prompt_name="STS"), "default prompt is 'STS' instead of None"),
        (lambda m: m.update(similarity_fn_name="dot"), "similarity function is 'dot' instead of 'cosine'"),
    ],
)
def test_facts_that_differ(edited: Callable[[Edit], Path], few: Answers, change: Edit, expected: str) -> None:
    report = parity.check(edited(change), few)
    reason = report.graphs["onnx/fp32"].reason
    assert not report.passed and reason and expected in reason
    assert reason in "\n".join(table.lines(report))


def test_a_dropped_prompt_shows_in_the_ids_too(edited: Callable[[Edit], Path], few: Answers) -> None:
    report = parity.check(edited(lambda m: m["prompts"].update(query="")), few)
    failed = [c for c in report.graphs["onnx/fp32"].cases if c.failures]
    assert {c.probe for c in failed} == {"en-question/prompt query", "en-question/query"}
    assert all("token ids differ from position 1" in c.failures[0] for c in failed)
    assert all(any("cosine" in f for f in c.failures) for c in failed)
    graph = report.graphs["onnx/fp32"]
    assert graph.groups["prompt"]["query"].failed == 1 and graph.groups["prompt"]["STS"].failed == 0
    assert graph.failed_texts["en-question/query"].startswith("How do I keep")


def test_another_checkpoint(tmp_path: Path, few: Answers) -> None:
    standin.write(tmp_path / "other", standin.Options(seed=1))
    report = parity.check(export(tmp_path / "other", tmp_path / "bundle"), few)
    graph = report.graphs["onnx/fp32"]
    assert not report.passed
    assert graph.cosine and graph.cosine.maximum < 0.99
    assert "exported from other weights (other" in report.notes[0]
    text = "\n".join(table.lines(report))
    assert "onnx/fp32: FAILED" in text and "note: The bundle was exported from other" in text
    assert "more; all of them are in parity.json" in text


def test_errors_of_the_runtime_are_failures(
    bundle: Path, few: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise InputError("no titles today")

    monkeypatch.setattr(Embedder, "encode_document", refuse)
    graph = parity.check(bundle, few).graphs["onnx/fp32"]
    failed = [c for c in graph.cases if c.failures]
    assert {c.probe.partition("/")[2] for c in failed} == {"document", "title 0", "title 1"}
    assert graph.reason and "error: no titles today" in graph.reason


def test_nan_is_a_failure_and_null_in_json(
    bundle: Path, few: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = Embedder.encode

    def spoil(self: Embedder, *args: Any, **options: Any) -> Any:
        found = true(self, *args, **options)
        for features in found if options["output_value"] is None else ():
            features["sentence_embedding"][0] = np.nan
        return found

    monkeypatch.setattr(Embedder, "encode", spoil)
    report = parity.check(bundle, few)
    graph = report.graphs["onnx/fp32"]
    assert graph.status == "failed" and graph.reason and "NaN" in graph.reason
    assert graph.cosine and math.isnan(graph.cosine.minimum)
    data = json.loads(report.to_json(), parse_constant=lambda name: pytest.fail(f"{name} in the JSON"))
    assert data["graphs"]["onnx/fp32"]["cosine"]["minimum"] is None
    verdict = graph.as_parity({})
    assert verdict.cosine_min is None and verdict.max_abs_error is None


def test_writes_a_verdict_that_the_runtime_reads(edited: Callable[[Edit], Path], few: Answers) -> None:
    copy = edited(lambda m: m["prompts"].update(STS="other: "))
    written = parity.check(copy, few).write(copy)
    data = json.loads(written.read_text(encoding="utf-8"))
    assert (written, data["schema_version"]) == (copy / "parity.json", 1)
    assert data["graphs"]["onnx/fp32"]["status"] == "failed"
    assert sorted(p.name for p in copy.iterdir() if "parity" in p.name) == ["parity.json"]
    with pytest.raises(BundleError, match="prompt 'STS' is 'other: '"):
        Embedder.load(copy)
    assert not parity.check(copy, few).passed, "a failed bundle can be checked again"


def test_a_missing_bundle(tmp_path: Path, few: Answers) -> None:
    with pytest.raises(BundleError, match="is not a folder"):
        parity.check(tmp_path / "none", few)


def test_the_mean_has_a_bound_of_its_own(bundle: Path) -> None:
    """Each vector just good enough, all of them together not."""
    graph = load_manifest(bundle).graphs[0]
    cases = tuple(
        Case(f"{i}", "Latin", "", "alone", 5, True, Figures(0.97, 0.1, 0.0, True), ()) for i in range(3)
    )
    report = graph_report(graph, bounds("int8"), Results(cases, ()), 1.0)
    assert report.failed == 0 and report.status == "failed"
    assert report.reason == f"the mean cosine 0.9700000 is below {LOSS['int8'].cosine_mean}"


def test_vectors_that_change_are_refused(bundle: Path) -> None:
    assert _unsteady(bundle, Invariance(9e-6, 9e-6, 9e-6, 9e-6)) is None
    assert _unsteady(bundle, Invariance(2e-5, 0, 0)) == "vectors change with the batch, by up to 2.0e-05"
    assert _unsteady(bundle, Invariance(0, 2e-5, 0)) == "vectors change with the run, by up to 2.0e-05"
    said = _unsteady(bundle, Invariance(0, 0, math.nan))
    assert said == "vectors change with the number of threads, by up to nan"
    assert _unsteady(bundle, Invariance(0, 0, 0, 1.0)) == "vectors change with the bucket, by up to 1.0e+00"


def _unsteady(bundle: Path, invariance: Invariance) -> str | None:
    """The reason for which an fp32 graph is refused whose vectors are the reference's."""
    cases = (Case("a", "Latin", "", "alone", 5, True, Figures(1.0, 0.0, 0.0, True), ()),)
    found = Results(cases, (), invariance=invariance)
    return graph_report(load_manifest(bundle).graphs[0], bounds("fp32"), found, 1.0).reason


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_other_hidden_states_are_refused(
    precision: Precision,
    tiny_checkpoint: Path,
    tmp_path: Path,
    checkpoint: Checkpoint,
    few: Answers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The vectors are right, and what clients pool themselves is not: states of the tokens in other order."""
    options = ExportOptions(precisions=(precision,))
    export_bundle(load_checkpoint(tiny_checkpoint), tmp_path / "b", options, "checked by the test itself")
    true = Embedder.encode

    def turned(self: Embedder, *args: Any, **options: Any) -> Any:
        found = true(self, *args, **options)
        for features in found if options["output_value"] is None else ():
            features["token_embeddings"] = -features["token_embeddings"][::-1]
        return found

    monkeypatch.setattr(Embedder, "encode", turned)
    report = parity.check(tmp_path / "b", few)
    graph = report.graphs[f"onnx/{precision}"]
    assert graph.status == "failed"
    assert {c.check for c in graph.cases if c.failures} == {TOKEN_STATES}
    assert graph.cosine and graph.cosine.minimum > 0.95, "they are no business of the vectors' summary"
    report = diagnosis.diagnose(tmp_path / "b", report, Reference.load(checkpoint), few)
    (finding,) = report.graphs[f"onnx/{precision}"].findings
    assert finding.name == "token states that are not those that are pooled"


def test_execution_is_judged_apart_from_loss(
    tiny_checkpoint: Path, tmp_path: Path, few: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fp16 loses a little by rounding, and computes exactly with what it stores."""
    options = ExportOptions(precisions=("fp16",))
    export_bundle(load_checkpoint(tiny_checkpoint), tmp_path / "half", options, "checked by the test itself")
    asked = Execution(load_checkpoint(tiny_checkpoint), few)
    graph = parity.check(tmp_path / "half", few, execution=asked).graphs["onnx/fp16"]
    executed = graph.groups["arrangement"]["execution"]
    assert graph.status == "passed" and executed.checks == 16
    assert executed.max_abs_error.maximum < 1e-5 < graph.groups["arrangement"]["alone"].max_abs_error.maximum
    true = Execution.expected

    def off(*arguments: Any) -> dict[str, Executed]:
        return {
            n: dataclasses.replace(e, vector=e.vector * np.float32(1.001))
            for n, e in true(*arguments).items()
        }

    monkeypatch.setattr(Execution, "expected", off)
    graph = parity.check(tmp_path / "half", few, execution=asked).graphs["onnx/fp16"]
    assert graph.status == "failed" and graph.reason and "execution" in graph.reason
    assert {c.check for c in graph.cases if c.failures} == {"execution"}


def test_the_gate(bundle: Path, tmp_path: Path, checkpoint: Checkpoint, answers: Answers) -> None:
    gate = parity_gate(checkpoint)
    verdict = gate(bundle)["onnx/fp32"]
    assert (verdict.status, verdict.reason) == ("passed", None)
    assert verdict.texts == len(answers.probes.probes)
    assert verdict.thresholds == LOSS["fp32"].as_dict()
    assert {"onnxruntime", "sentence-transformers", "torch"} <= verdict.versions.keys()
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    graph = broken / load_manifest(broken).graphs[0].file
    graph.write_bytes(graph.read_bytes()[:-100])
    refused = gate(broken)["onnx/fp32"]
    assert refused.status == "failed" and refused.reason and "the runtime refuses it" in refused.reason


def test_the_gate_refuses_a_precision_without_thresholds(
    bundle: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(RANDOM_LOSS, "fp32")
    verdict = parity_gate(checkpoint)(bundle)["onnx/fp32"]
    assert verdict.status == "failed" and verdict.reason and "No parity thresholds" in verdict.reason


def test_golden_vectors_of_the_export_do_not_stop_the_check(
    edited: Callable[[Edit], Path], few: Answers
) -> None:
    """A wrong golden vector is the runtime's concern; parity asks the graph itself."""

    def change(m: dict[str, Any]) -> None:
        wrong = GoldenVector.of((2, 1), np.eye(64, dtype=np.float32)[0])
        m["graphs"][0]["golden"] = [dataclasses.asdict(wrong)]

    assert parity.check(edited(change), few).passed


def _set_prompts(folder: Path, prompts: dict[str, str], default: str | None) -> None:
    path = folder / "config_sentence_transformers.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(
        json.dumps({**data, "prompts": prompts, "default_prompt_name": default}), encoding="utf-8"
    )


def _drop_normalize(folder: Path) -> None:
    path = folder / "modules.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8"))[:-1]), encoding="utf-8")


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: _set_prompts(folder, {"passage": "p: ", "STS": "sts: "}, "STS"),
        lambda folder: _set_prompts(folder, {}, None),
        _drop_normalize,
    ],
    ids=["default prompt, no query prompt", "no prompts", "not normalised"],
)
def test_fine_tunes_of_other_shapes_pass(
    tiny_checkpoint: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    change(folder)
    verdict = parity_gate(load_checkpoint(folder))(export(folder, tmp_path / "bundle"))["onnx/fp32"]
    assert (verdict.status, verdict.reason) == ("passed", None)
