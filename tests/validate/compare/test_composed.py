"""A graph that was composed for a target cosine: the runtime takes it by default, and it is named as that."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from conftest import assumed

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime import Embedder
from embedding_runtime.manifest.composition import Composition
from embedding_validate.compare import cli as compare
from embedding_validate.compare.document import figures, store
from embedding_validate.compare.document.document import GraphEntry
from embedding_validate.compare.measure import systems
from embedding_validate.compare.report import advice

NAMED = "onnx/int4 (composed for a mean cosine of 0.98)"


@pytest.fixture(scope="module")
def plain(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fp32 and int4 of one model."""
    folder = tmp_path_factory.mktemp("plain") / "plain"
    export_bundle(load_checkpoint(tiny_checkpoint), folder, ExportOptions(("fp32", "int4")), assumed)
    return folder


@pytest.fixture(scope="module")
def composed(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, whose int4 graph says that it was composed."""
    folder = Path(shutil.copytree(plain, tmp_path_factory.mktemp("composed") / "composed"))
    data = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    data["graphs"][1]["composition"] = asdict(Composition(0.98, {"table": 4}, 9, 0.985, 0.97, ()))
    (folder / "manifest.json").write_text(json.dumps(data), encoding="utf-8")
    return folder


def first_choice(folder: Path, *bundles: Path, keys: list[str] | None = None) -> str:
    read = systems.read_bundles(bundles)
    return systems.first_choice(systems.of_bundles(read, keys, folder), read)


def test_the_reference_case_is_what_the_runtime_takes(plain: Path, composed: Path, tmp_path: Path) -> None:
    for bundle, expected in ((plain, "onnx/fp32"), (composed, "onnx/int4")):
        with Embedder.load(bundle, threads=1) as embedder:
            assert embedder.graph.key == first_choice(tmp_path, bundle) == expected
    assert first_choice(tmp_path, plain, keys=["onnx/int4"]) == "onnx/int4", "there is no other"


def test_the_first_bundle_that_has_a_choice_gives_it(
    plain: Path, composed: Path, litert_bundle: Path, tmp_path: Path
) -> None:
    """Not another bundle's graph, though its precision comes first; that one where the first has none."""
    assert first_choice(tmp_path, composed, litert_bundle) == "composed onnx/int4"
    assert first_choice(tmp_path, plain, litert_bundle) == "plain onnx/fp32"
    keys = ["onnx/int4", "litert/int8"]
    assert first_choice(tmp_path, plain, litert_bundle, keys=keys) == "litert litert/int8"


def test_it_is_named_as_what_it_is(plain: Path, composed: Path, tmp_path: Path) -> None:
    """In the advice and the tables, where a plain graph of the same precision stands beside it."""
    quick = ["--threads", "1", "--seconds", "0.05", "--rounds", "3", "--lengths", "4"]
    bundles = [str(plain), str(composed), "--graphs", "onnx/int4"]
    assert compare.main([*bundles, "--output", str(tmp_path), *quick]) == 0
    (run,) = store.load(tmp_path / "compare.json").measured
    targets = {e.name: e.target_cosine for e in run.systems if isinstance(e, GraphEntry)}
    assert targets == {"plain onnx/int4": None, "composed onnx/int4": 0.98}
    assert run.plan.reference == "composed onnx/int4"
    for fast, called in (("composed", f"composed {NAMED}"), ("plain", "plain onnx/int4")):
        times = [replace(c, median_ms=1 + 98 * (not c.system.startswith(fast)), noise=()) for c in run.cases]
        assert f"take {called}: " in advice.recommendation(replace(run, cases=tuple(times)))[-1]
    as_text, as_page = ((tmp_path / f"compare.{end}").read_text(encoding="utf-8") for end in ("md", "html"))
    assert f"| composed {NAMED} |" in as_text and "| plain onnx/int4 |" in as_text
    assert "composed onnx/int4 <small>composed for a mean cosine of 0.98</small>" in as_page
    data = json.loads((tmp_path / "compare.json").read_text(encoding="utf-8"))["runs"][0]
    assert [s.get("target_cosine") for s in data["systems"]] == [None, 0.98]
    assert "target_cosine" not in data["systems"][0], "as older versions wrote it"
    assert figures.wrong(run, "composed onnx/int4") is None
