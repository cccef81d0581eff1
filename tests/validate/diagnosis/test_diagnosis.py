"""Planted faults are named: the right name, or at least no wrong one."""

import dataclasses
from functools import partial
from pathlib import Path

import planted
import pytest
import standin
from faulty_exports import FAULTS

from embedding_export.bundle import graphs
from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime.bundle import load_manifest
from embedding_runtime.opening import open_bundle
from embedding_validate.diagnosis import diagnosis
from embedding_validate.gate import parity_gate
from embedding_validate.measures.thresholds import RANDOM_LOSS
from embedding_validate.parity import parity, weights
from embedding_validate.parity.execution import Execution
from embedding_validate.parity.results import Finding, Report
from embedding_validate.reference.answers import Answers
from embedding_validate.reference.reference import Reference
from embedding_validate.report import table

# Fault of test_faults -> how the finding must begin.
Patch = pytest.MonkeyPatch
FP32_ONLY = ExportOptions(precisions=("fp32",))
INT8 = ExportOptions(precisions=("int8",))
NAMES = {
    "causal mask": "causal attention",
    "window off by one": "window off by one (too narrow)",
    "window halved": "window halved",
    "RoPE bases swapped": "RoPE bases swapped",
    "one layer's type swapped": "type of layer 0 swapped",
    "table scale missing": "table scale missing",
    "w for 1 + w": "norms multiply by w instead of 1 + w",
    "q and k norm missing": "q and k norms missing",
    "attention scale wrong": "layer 0 differs from its attention block on",
    "plain gelu": "exact gelu instead of tanh",
    "Dense dropped": "all Dense stages missing",
    "mask ignored in pooling": "pooling without mask",
    "<eos> dropped": "<eos> missing",
    "prompt dropped": "prompt missing",
    "final norm dropped": "final norm missing",
    "two layers exchanged": "layers 2 and 3 exchanged",
    "one tensor of another checkpoint": "layer 1 differs from its feed-forward block on",
}


def _exported(checkpoint: Path, folder: Path) -> Path:
    export_bundle(
        load_checkpoint(checkpoint),
        folder / "bundle",
        FP32_ONLY,
        "checked by the test itself",
    )
    return folder / "bundle"


@pytest.fixture
def _golden_ids_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the runtime refuses a changed tokenizer before anything can be compared."""
    monkeypatch.setattr(open_bundle, "check_golden_ids", lambda *_: None)


def _diagnosed(bundle: Path, reference: Reference, answers: Answers) -> tuple[Report, tuple[Finding, ...]]:
    report = diagnosis.diagnose(bundle, parity.check(bundle, answers), reference, answers)
    return report, report.graphs["onnx/fp32"].findings


def test_every_planted_fault_has_a_name() -> None:
    assert NAMES.keys() == FAULTS.keys()


@pytest.mark.usefixtures("_golden_ids_unread")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named(
    fault: str,
    tiny_checkpoint: Path,
    tmp_path: Path,
    reference: Reference,
    answers: Answers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    FAULTS[fault](monkeypatch)
    monkeypatch.setattr(graphs, "audit_graph", lambda *_: 0)
    bundle = _exported(tiny_checkpoint, tmp_path)
    report, findings = _diagnosed(bundle, reference, answers)
    assert [f.name for f in findings] == [NAMES[fault]], table.lines(report)


def _int8(checkpoint: Path, bundle: Path, options: ExportOptions = INT8) -> Path:
    export_bundle(load_checkpoint(checkpoint), bundle, options, "checked by the test itself")
    return bundle


def _judged(
    bundle: Path, reference: Reference, answers: Answers, *, audited: bool = False
) -> tuple[Report, list[str]]:
    """With the question of execution, and with that of weights where asked for; and the findings' names."""
    manifest = load_manifest(bundle)
    audit = partial(weights.compare_weights, reference.checkpoint) if audited else None
    checkpoint = weights.of_bundle(reference.checkpoint, bundle, manifest)
    asked = Execution(checkpoint, answers.for_bundle(bundle, manifest))
    report = parity.check(bundle, answers, execution=asked, weights=audit)
    report = diagnosis.diagnose(bundle, report, reference, answers)
    return report, [f.name for f in report.graphs[manifest.graphs[0].key].findings]


# Faults of the forward pass that int8's own rounding does not hide.
IN_INT8 = (
    "causal mask",
    "window off by one",
    "RoPE bases swapped",
    "one layer's type swapped",
    "table scale missing",
)


@pytest.mark.parametrize("fault", IN_INT8)
def test_a_fault_is_named_in_int8_too(
    fault: str,
    tiny_checkpoint: Path,
    tmp_path: Path,
    reference: Reference,
    answers: Answers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    FAULTS[fault](monkeypatch)
    bundle = _int8(tiny_checkpoint, tmp_path / "bundle")
    report, names = _judged(bundle, reference, answers)
    assert names == [NAMES[fault]], table.lines(report)
    assert "to the reference with this fault 1.0000" in report.graphs["onnx/int8"].findings[0].evidence


def test_stored_weights_that_no_vector_shows_are_named(
    tiny_checkpoint: Path, tmp_path: Path, reference: Reference, answers: Answers, monkeypatch: Patch
) -> None:
    planted.FAULTS["int8: a tensor's scales x 1.1"][1](monkeypatch)
    monkeypatch.setattr(graphs, "audit_graph", lambda *_: 0)
    bundle = _int8(tiny_checkpoint, tmp_path / "bundle")
    report, names = _judged(bundle, reference, answers, audited=True)
    assert len(names) == 1 and names[0].startswith("stored weights: all values x 1.1 (layers.0.mlp.")
    reason = report.graphs["onnx/int8"].reason
    assert reason and "10 stored tensors are not the checkpoint's" in reason
    assert "58 of 68 tensors are the checkpoint's" in "\n".join(table.lines(report))


def test_rounding_that_costs_too_much_is_named(
    tiny_checkpoint: Path, tmp_path: Path, reference: Reference, answers: Answers, monkeypatch: Patch
) -> None:
    """Every weight is the nearest of its grid, the graph computes with it, and the loss is beyond bounds."""
    bundle = _int8(tiny_checkpoint, tmp_path / "bundle", ExportOptions(precisions=("int4",)))
    strict = dataclasses.replace(RANDOM_LOSS["int4"], cosine_mean=0.999)
    monkeypatch.setitem(RANDOM_LOSS, "int4", strict)
    report, names = _judged(bundle, reference, answers, audited=True)
    assert names == ["quantization error beyond its class"]
    assert "feed-forward 0.9" in report.graphs["onnx/int4"].findings[0].evidence


def test_a_prompt_that_is_missing_is_all_that_is_wrong(
    tiny_checkpoint: Path, tmp_path: Path, reference: Reference, answers: Answers, monkeypatch: Patch
) -> None:
    FAULTS["prompt dropped"](monkeypatch)
    bundle = _int8(tiny_checkpoint, tmp_path / "bundle")
    report, names = _judged(bundle, reference, answers)
    assert names == ["prompt missing"], table.lines(report)


def test_a_trimmed_vocabulary(
    tiny_checkpoint: Path,
    tmp_path: Path,
    reference: Reference,
    answers: Answers,
    monkeypatch: Patch,
) -> None:
    """Its ids are not the reference's; sound it passes, and faults of graph and prompt have their names."""
    options = ExportOptions(precisions=("int8",), alphabet="latin")
    sound = _int8(tiny_checkpoint, tmp_path / "sound", options)
    report, names = _judged(sound, reference, answers, audited=True)
    assert report.passed and names == []
    with monkeypatch.context() as patch:
        FAULTS["window halved"](patch)
        FAULTS["prompt dropped"](patch)
        wrong = _int8(tiny_checkpoint, tmp_path / "wrong", options)
    report, names = _judged(wrong, reference, answers)
    assert names == ["prompt missing", "window halved"], table.lines(report)


def test_a_sound_bundle_has_no_findings(
    tiny_checkpoint: Path, tmp_path: Path, reference: Reference, answers: Answers
) -> None:
    report, findings = _diagnosed(_exported(tiny_checkpoint, tmp_path), reference, answers)
    assert report.passed and findings == ()


def test_another_checkpoint_is_named(tmp_path: Path, reference: Reference, answers: Answers) -> None:
    standin.write(tmp_path / "other", standin.Options(seed=7))
    report, findings = _diagnosed(_exported(tmp_path / "other", tmp_path), reference, answers)
    assert [f.name for f in findings] == ["other tokenizer", "other checkpoint"]
    assert "diagnosis: other checkpoint" in "\n".join(table.lines(report))


def test_the_gate_names_what_is_wrong(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FAULTS["Dense dropped"](monkeypatch)
    monkeypatch.setattr(graphs, "audit_graph", lambda *_: 0)
    bundle = _exported(tiny_checkpoint, tmp_path)
    verdict = parity_gate(load_checkpoint(tiny_checkpoint))(bundle)["onnx/fp32"]
    assert verdict.reason and "diagnosis: all Dense stages missing (cosine to the reference" in verdict.reason
    assert "to the reference with this fault 1.000000" in verdict.reason
