"""`validate-embedding`: exit statuses, what goes to stdout and stderr, and what is written."""

import json
import shutil
from pathlib import Path

import pytest
import standin
import torch

from embedding_export.checkpoint import load_checkpoint
from embedding_export.pipeline import ExportOptions, export_bundle
from embedding_validate.cli import main

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def exported(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("cli") / "bundle"
    export_bundle(load_checkpoint(tiny_checkpoint), folder, ExportOptions(), "checked by the test itself")
    return folder


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A copy that a test may write to."""
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Three short texts, so that a run takes no longer than it must."""
    path = tmp_path / "texts.txt"
    path.write_text("wind\nHow deep is the well?\n東京 🙂\n", encoding="utf-8")
    return path


def test_a_sound_bundle_passes_every_probe(bundle: Path, tiny_checkpoint: Path, capsys: Captured) -> None:
    assert main([str(bundle), "--reference", str(tiny_checkpoint)]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "onnx/fp32: PASSED" in captured.err and "required" in captured.err
    data = json.loads((bundle / "parity.json").read_text(encoding="utf-8"))
    graph = data["graphs"]["onnx/fp32"]
    assert (data["schema_version"], data["probes"], graph["status"]) == (1, "full", "passed")
    assert {c["tokens"] for c in graph["cases"]} >= {7, 8, 9, 10, 511, 512, 513, 1023, 1024, 1025, 2047, 2048}
    assert {"system", "cpu", "cpus"} <= data["machine"].keys()
    assert data["versions"]["sentence-transformers"] == "6.2.0"


def test_json_is_one_document_on_stdout(
    bundle: Path, tiny_checkpoint: Path, texts: Path, capsys: Captured
) -> None:
    assert main([str(bundle), "--reference", str(tiny_checkpoint), "--texts", str(texts), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == json.loads((bundle / "parity.json").read_text(encoding="utf-8"))
    assert json.loads(captured.out)["probes"] == "texts"
    assert "PASSED" in captured.err


def test_a_miss_is_exit_1_and_is_written(bundle: Path, tmp_path: Path, texts: Path, capsys: Captured) -> None:
    standin.write(tmp_path / "other", standin.Options(seed=1))
    assert main([str(bundle), "--reference", str(tmp_path / "other"), "--texts", str(texts)]) == 1
    err = capsys.readouterr().err
    assert "onnx/fp32: FAILED" in err and "exported from other weights" in err and "'line-1', alone" in err
    data = json.loads((bundle / "parity.json").read_text(encoding="utf-8"))
    assert data["graphs"]["onnx/fp32"]["status"] == "failed"


def _files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{none}", "--reference", "{checkpoint}"], "is not a folder"),
        (["{bundle}", "--reference", "{none}"], "No such folder"),
        (["{bundle}", "--reference", "{bundle}"], "error: "),
        (["{bundle}", "--reference", "{checkpoint}", "--texts", "{none}"], "cannot be read"),
        (["{bundle}", "--reference", "{checkpoint}", "--texts", "{latin1}"], "not UTF-8"),
        (["{bundle}", "--reference", "{checkpoint}", "--golden"], "golden figures are those of google/"),
    ],
)
def test_bad_input_is_exit_2_and_writes_nothing(
    arguments: list[str], message: str, bundle: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "latin1.txt").write_bytes("Brücke".encode("latin-1"))
    before = _files(bundle)
    names = {
        "none": tmp_path / "none",
        "bundle": bundle,
        "checkpoint": tiny_checkpoint,
        "latin1": tmp_path / "latin1.txt",
    }
    assert main([a.format(**names) for a in arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.out == ""
    assert "Traceback" not in captured.err
    assert _files(bundle) == before


def test_usage_is_exit_2(bundle: Path, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as exit:
        main([str(bundle)])
    assert exit.value.code == 2
    assert "--reference" in capsys.readouterr().err


def test_a_damaged_bundle_is_exit_2(
    bundle: Path, tiny_checkpoint: Path, texts: Path, capsys: Captured
) -> None:
    graph = next((bundle / "onnx").glob("*.onnx"))
    graph.write_bytes(graph.read_bytes()[:-50])
    assert main([str(bundle), "--reference", str(tiny_checkpoint), "--texts", str(texts)]) == 2
    assert "error: " in capsys.readouterr().err
    assert not (bundle / "parity.json").exists()


def test_examples_as_text_and_as_json(bundle: Path, tiny_checkpoint: Path, capsys: Captured) -> None:
    arguments = [str(bundle), "--reference", str(tiny_checkpoint), "--examples"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "Ticket classification" in out and "plums, storing plums" in out and "Largest difference" in out
    assert main([*arguments, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["left_out"] == [] and len(shown["words"]) == 3
    assert all(abs(r["reference"] - r["bundle"]) < 1e-5 for r in shown["rows"])
    assert not (bundle / "parity.json").exists(), "examples check nothing and write nothing"
