"""`export-embedding --add`: judged is what is new, and what was judged with something else than is there."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import assumed
from edits import change

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.errors import ParityError
from embedding_export.options import ExportOptions
from embedding_export.pipeline import Gate, export_bundle
from embedding_export.reporting import SILENT
from embedding_runtime import BundleError, Embedder
from embedding_runtime.bundle import Manifest, Parity, Precision, load_manifest
from embedding_validate.gate import parity_gate

Add = Callable[..., Manifest]
JUDGED = Parity("passed", texts=40, cosine_min=0.99999, max_abs_error=1e-6, versions={})


class Judge:
    """A gate that passes everything, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, bundle: Path) -> dict[str, Parity]:
        self.asked = [graph.key for graph in load_manifest(bundle).graphs]
        return assumed(bundle)


@pytest.fixture
def bundle(editable: Path, tmp_path: Path) -> Path:
    """Of `editable`, fp32 alone, judged as `JUDGED`."""
    target = tmp_path / "bundle"
    options = ExportOptions(("fp32",))
    export_bundle(load_checkpoint(editable), target, options, lambda _: {"onnx/fp32": JUDGED})
    return target


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def add(editable: Path, bundle: Path, said: list[str]) -> Add:
    """Adds a graph of the checkpoint as it is by then."""

    def run(gate: Gate | str, precision: Precision = "fp16", **options: Any) -> Manifest:
        chosen = ExportOptions((precision,), existing="extend", **options)
        return export_bundle(
            load_checkpoint(editable), bundle, chosen, gate, replace(SILENT, step=said.append)
        )

    return run


def verdicts(manifest: Manifest) -> dict[str, Parity]:
    return {graph.key: graph.parity for graph in manifest.graphs}


def test_only_what_is_new_is_judged(add: Add, bundle: Path, said: list[str]) -> None:
    judge, before = Judge(), load_manifest(bundle).graphs[0]
    made = add(judge)
    assert judge.asked == ["onnx/fp16"]
    assert made == load_manifest(bundle) and made.graphs[0] == before, "as it was, verdict and all"
    assert verdicts(made) == {"onnx/fp32": JUDGED, "onnx/fp16": Parity("passed")}
    assert "onnx/fp32 keeps its verdict" in said and "comparing onnx/fp16 with the reference" in said
    again = add(judge, "fp32")
    assert judge.asked == ["onnx/fp32"], "written again, judged again"
    assert [g.key for g in again.graphs] == ["onnx/fp16", "onnx/fp32"]


def test_several_formats_at_once(add: Add) -> None:
    judge = Judge()
    add(judge, "int8", formats=("onnx", "litert"), buckets=(32,))
    assert judge.asked == ["onnx/int8", "litert/int8"]
    add(judge, "int8_q4")
    assert judge.asked == ["onnx/int8_q4"]


def _edit_manifest(bundle: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = bundle / "manifest.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    edit(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def _damage(path: Path) -> None:
    """One bit of the last byte."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def _older_table(bundle: Path, _: Path) -> None:
    """As of a version of the exporter that wrote another table."""
    _edit_manifest(bundle, lambda m: m["files"]["tokenizer.table"].update(sha256="0" * 64))


def _judged_elsewhere(bundle: Path, _: Path) -> None:
    _edit_manifest(bundle, lambda m: m["graphs"][0]["parity"].update(versions={"onnxruntime": "1.2.3"}))


def _never_judged(bundle: Path, _: Path) -> None:
    _edit_manifest(bundle, lambda m: m["graphs"][0]["parity"].update(status="not run"))


def _other_prompts(_: Path, checkpoint: Path) -> None:
    change(checkpoint / "config_sentence_transformers.json", {"prompts": {"query": "find: "}})


CHANGES = {
    "table": (_older_table, "changed: tokenizer.table"),
    "weights": (lambda b, _: _damage(b / "onnx" / "model.onnx_data"), "changed: onnx/model.onnx_data"),
    "prompts": (_other_prompts, "changed: prompts"),
    "versions": (_judged_elsewhere, "it was judged with onnxruntime 1.2.3"),
    "verdict": (_never_judged, "its verdict was not run"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_was_judged_with_something_else_is_judged_again(
    what: str, add: Add, bundle: Path, editable: Path, said: list[str]
) -> None:
    judge, (edit, why) = Judge(), CHANGES[what]
    edit(bundle, editable)
    made = add(judge)
    assert judge.asked == ["onnx/fp32", "onnx/fp16"]
    assert any(line.startswith(f"onnx/fp32 is compared again: {why}") for line in said), said
    assert verdicts(made)["onnx/fp32"] == Parity("passed"), "the verdict of now"


def test_other_dims_are_judged(add: Add) -> None:
    judge = Judge()
    add(judge, dims=(32,))
    assert judge.asked == ["onnx/fp32", "onnx/fp16"]


@pytest.mark.parametrize("what", CHANGES)
def test_where_nothing_can_be_compared(what: str, add: Add, bundle: Path, editable: Path) -> None:
    """A verdict stays where it holds; what has changed since is not called passed."""
    edit, why = CHANGES[what]
    edit(bundle, editable)
    found = verdicts(add("no PyTorch here"))
    assert found["onnx/fp16"] == Parity("not run", "no PyTorch here")
    kept = found["onnx/fp32"]
    if why.startswith("changed"):
        assert (
            kept.status == "not run"
            and kept.reason == f"no PyTorch here; it was judged before this was {why}"
        )
    else:
        assert kept.status == ("not run" if what == "verdict" else "passed")


@pytest.mark.parametrize("what", [None, "table"])
def test_a_validation_report_is_kept_while_it_is_about_these_graphs(
    what: str | None, add: Add, bundle: Path, editable: Path
) -> None:
    """A graph that the full validation refused is not let through by adding another."""
    variant = load_manifest(bundle).graphs[0].variant_id
    entry = {"variant_id": variant, "status": "failed", "reason": "planted"}
    report = json.dumps({"schema_version": 1, "graphs": {"onnx/fp32": entry}})
    (bundle / "parity.json").write_text(report, encoding="utf-8")
    if what:
        CHANGES[what][0](bundle, editable)
    add(Judge(), "int8")
    assert (bundle / "parity.json").exists() == (what is None)
    if what is None:
        with pytest.raises(BundleError, match="planted"):
            Embedder.load(bundle, precision="fp32")
    Embedder.load(bundle, precision="int8").close()


def test_a_refused_graph_leaves_the_bundle(add: Add, bundle: Path) -> None:
    before = (bundle / "manifest.json").read_bytes()
    with pytest.raises(ParityError, match="onnx/fp16: planted"):
        add(lambda _: {"onnx/fp16": Parity("failed", "planted")})
    assert (bundle / "manifest.json").read_bytes() == before


def test_by_the_real_gate(editable: Path, tmp_path: Path) -> None:
    """The verdicts are those of one export of both; a graph that was damaged since is refused."""
    checkpoint, target = load_checkpoint(editable), tmp_path / "bundle"
    for precision, existing in (("fp32", "refuse"), ("int8", "extend")):
        options = ExportOptions((precision,), existing=existing)  # type: ignore[arg-type]
        made = export_bundle(checkpoint, target, options, parity_gate(checkpoint))
    whole = export_bundle(
        checkpoint, tmp_path / "b", ExportOptions(("fp32", "int8")), parity_gate(checkpoint)
    )
    assert verdicts(made) == verdicts(whole)
    data = target / "onnx" / "model.onnx_data"
    content = bytearray(data.read_bytes())
    content[len(content) // 2 + 1 :: 2] = bytes(len(content[len(content) // 2 + 1 :: 2]))
    data.write_bytes(bytes(content))
    with pytest.raises(ParityError, match="onnx/fp32"):
        export_bundle(
            checkpoint, target, ExportOptions(("fp16",), existing="extend"), parity_gate(checkpoint)
        )
