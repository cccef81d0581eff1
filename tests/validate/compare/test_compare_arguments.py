"""What compare-embedding refuses before it measures anything, and what it takes where nothing is said."""

from dataclasses import replace
from pathlib import Path

import pytest

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime.bundle import load_manifest
from embedding_validate.compare import cli as compare
from embedding_validate.compare.document import store
from embedding_validate.compare.document.shapes import LENGTHS, up_to


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--graphs", "onnx/int3"], "No graph onnx/int3"),
        (["--graphs", ""], "No graph ''; there are onnx/fp32"),
        (["--account", ""], "--account has ''; expected onnx/fp32"),
        (["--lengths", ""], "whole numbers"),
        (["--bf16"], "Add --reference"),
        (["--lengths", "0"], "whole numbers"),
        (["--lengths", "1x2x3"], "TOKENS or BATCHxTOKENS"),
        (["--threads", "two"], "whole numbers"),
        (["--lengths", "4096"], "2048 at most"),
        (["--batch", "x"], "--batch"),
        (["--reference", "nowhere"], "checkpoint's folder"),
        (["--peer", "openvino"], "NAME=PYTHON=SCRIPT"),
        (["--resume"], "cannot be read"),
        (["--merge", "nowhere.json"], "cannot be read"),
    ],
)
def test_bad_arguments(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    given = [] if arguments[0] == "--merge" else [str(tiny_bundle)]
    assert compare.main([*given, "--output", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--seconds", "--limit", "--rounds"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e999", "two", ""])
def test_numbers_that_are_none(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        compare.main(["somewhere", "--output", "elsewhere", f"{option}={value}"])
    assert f"argument {option}: {value!r} is not a" in capsys.readouterr().err


def test_default_lengths_are_those_that_a_bundle_reads(tiny_checkpoint: Path, tmp_path: Path) -> None:
    options = ExportOptions(("fp32",))
    export_bundle(load_checkpoint(tiny_checkpoint, max_length=60), tmp_path / "short", options, "not asked")
    assert (
        compare.main([str(tmp_path / "short"), "--output", str(tmp_path / "out"), "--seconds", "0.05"]) == 0
    )
    (run,) = store.load(tmp_path / "out" / "compare.json").measured
    assert run.plan.shapes == ("16",)


def test_default_lengths_are_those_that_a_graph_reads(tiny_bundle: Path) -> None:
    manifest = load_manifest(tiny_bundle)
    (graph,) = manifest.graphs

    def given(length: int, *buckets: tuple[int, ...]) -> str:
        graphs = tuple(replace(graph, buckets=b) for b in buckets)
        return up_to(LENGTHS, [manifest, replace(manifest, max_seq_length=length, graphs=graphs)])

    assert [given(n, ()) for n in (8, 64, 8192)] == ["8", "16,64", LENGTHS]
    assert given(2048, (32, 128)) == "16,64,128"
    assert given(2048, (32, 128), ()) == LENGTHS


def test_results_need_a_folder(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for output in (tmp_path / "notes.txt", tmp_path / "notes.txt" / "below"):
        assert compare.main([str(tiny_bundle), "--output", str(output), "--seconds", "0.01"]) == 2
        assert "a file is in its way" in capsys.readouterr().err
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_usage(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main([str(tiny_bundle)]) == 2
    assert "--output DIR" in capsys.readouterr().err
    assert compare.main(["--output", "somewhere"]) == 2
    assert "Give one or more bundles" in capsys.readouterr().err
