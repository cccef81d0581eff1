"""`export-embedding --format litert` as a user meets it."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from embedding_export import cli
from embedding_export.bundle.graphs import litert_file
from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.weights.precisions import LITERT, NOT_OFFERED, PRECISIONS
from embedding_runtime import Embedder
from embedding_runtime.bundle import MANIFEST, Format, Precision, load_manifest
from embedding_runtime.engines import registry as engines
from embedding_runtime.machine.platforms import Platform

Export = Callable[..., int]
pytestmark = pytest.mark.filterwarnings("ignore::embedding_runtime.errors.ParityWarning")


@pytest.fixture(autouse=True)
def no_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are about files; parity has tests of its own."""
    monkeypatch.setattr(cli, "_gate", lambda _: "left out by this test")


@pytest.fixture
def export(tiny_checkpoint: Path) -> Export:
    return lambda *arguments: cli.main([str(tiny_checkpoint), *map(str, arguments)])


def _graphs(bundle: Path) -> dict[str, str]:
    return {g.key: g.file for g in load_manifest(bundle).graphs}


def test_each_precision_in_every_format_that_offers_it(export: Export, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    options = ("--format", "onnx,litert", "--precision", "fp32,mixed,fp16", "--buckets", "64,16")
    assert export(bundle, *options) == 0
    assert _graphs(bundle) == {
        "onnx/fp32": "onnx/model.onnx",
        "onnx/fp16": "onnx/model_fp16.onnx",
        "litert/fp32": "litert/model_fp32.tflite",
        "litert/mixed": "litert/model_mixed.tflite",
    }
    manifest = load_manifest(bundle)
    assert {g.buckets for g in manifest.graphs} == {(), (16, 64)}
    assert "ai-edge-litert" in manifest.versions
    with (
        Embedder.load(bundle, format="litert", precision="fp32") as litert,
        Embedder.load(bundle, format="onnx", precision="fp32") as onnx,
    ):
        texts = ["apple", "a rather longer text about nothing in particular"]
        np.testing.assert_allclose(litert.encode(texts), onnx.encode(texts), atol=2e-6)


def test_a_precision_that_no_format_offers(
    export: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(tmp_path / "bundle", "--format", "litert", "--precision", "fp16") == 1
    said = capsys.readouterr().err
    assert "litert has no precision 'fp16'; it has fp32, int8, int8_q4, mixed, int4" in said
    assert "LiteRT widens float16 weights, and int8 ones that are weight-only, to float32" in said
    assert "reading" not in said
    assert list(tmp_path.iterdir()) == []


def test_a_precision_that_one_format_offers_is_left_out_of_the_other(
    export: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--format", "onnx,litert", "--precision", "fp16,mixed", "--buckets", "16")
    assert export(tmp_path / "bundle", *options) == 0
    assert set(_graphs(tmp_path / "bundle")) == {"onnx/fp16", "litert/mixed"}
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: no ")]
    assert [n.partition(":")[2].partition(":")[0] for n in notes] == [" no onnx/mixed", " no litert/fp16"]
    assert all("Take int8" in note for note in notes)


def test_every_precision_is_offered_or_said_why_not() -> None:
    every = {(f, p) for f in get_args(Format) for p in get_args(Precision)}
    offered = {*(("onnx", p) for p in PRECISIONS), *(("litert", p) for p in LITERT)}
    assert every == offered | NOT_OFFERED.keys() and not offered & NOT_OFFERED.keys()


@pytest.mark.parametrize("options", [("--buckets", "1,16"), ("--litert-single", "1")])
def test_a_bucket_too_short(
    export: Export, options: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(tmp_path / "bundle", "--format", "litert", *options) == 1
    said = capsys.readouterr().err
    assert "a bucket has at least 2 tokens" in said and "reading" not in said


def test_single_is_about_litert(export: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(tmp_path / "bundle", "--litert-single", "64") == 1
    assert "Add --format litert" in capsys.readouterr().err


def test_without_the_engine_nothing_is_begun(
    export: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == "ai_edge_litert"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    assert export(tmp_path / "bundle", "--format", "onnx,litert", "--precision", "fp32") == 1
    said = capsys.readouterr().err
    assert "pip install 'embedding-edge[litert]'" in said
    assert "reading" not in said
    assert list(tmp_path.iterdir()) == []


def test_where_the_engine_cannot_run_nothing_is_begun(
    export: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even a download of the checkpoint: no wheel for this system is said first."""
    for name in [n for n in sys.modules if n.partition(".")[0] == "ai_edge_litert"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    musl = Platform("Linux", "x86_64", 64, "musl", ())
    monkeypatch.setattr(engines, "this_platform", lambda: musl)
    assert cli.main(["someone/not-there", str(tmp_path / "bundle"), "--format", "litert"]) == 1
    said = capsys.readouterr().err
    assert "C library is musl, but ai-edge-litert is built for glibc" in said
    assert "someone/not-there" not in said


def test_adding_replaces_the_namesake_only(export: Export, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    assert export(bundle, "--precision", "fp32") == 0
    assert export(bundle, "--add", "--format", "litert", "--precision", "fp32", "--buckets", "16") == 0
    assert _graphs(bundle) == {"onnx/fp32": "onnx/model.onnx", "litert/fp32": "litert/model_fp32.tflite"}
    single = ("--format", "litert", "--precision", "fp32", "--litert-single", "48")
    assert export(bundle, "--add", *single) == 0
    assert _graphs(bundle)["litert/fp32"] == "litert/tiny_seq48_fp32.tflite"
    assert sorted(p.suffix for p in (bundle / "litert").iterdir()) == [".json", ".tflite"]
    assert set(load_manifest(bundle).files) == {
        p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file() and p.name != MANIFEST
    }


def test_a_single_length_under_the_published_contract(export: Export, editable: Path, tmp_path: Path) -> None:
    """One int32 input, one float32 output, by position; tokenizer.model beside it."""
    (editable / "tokenizer.model").write_bytes(b"not ours to read")
    bundle = tmp_path / "bundle"
    options = ("--format", "litert", "--precision", "mixed", "--litert-single", "40")
    assert cli.main([str(editable), str(bundle), *options]) == 0
    path = bundle / "litert" / "checkpoint_seq40_mixed-precision.tflite"
    assert (bundle / "tokenizer.model").read_bytes() == b"not ours to read"
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    (tokens,), (vector,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (tokens["dtype"], tokens["shape"].tolist()) == (np.int32, [1, 40])
    assert (vector["dtype"], vector["shape"].tolist()) == (np.float32, [1, 64])
    with Embedder.load(bundle, threads=1) as embedder:
        assert embedder.graph.key == "litert/mixed"
        ids = embedder.tokenize(["three little words"])["input_ids"]
        interpreter.set_tensor(
            tokens["index"], np.pad(ids, ((0, 0), (0, 40 - ids.shape[1]))).astype(np.int32)
        )
        interpreter.invoke()
        found = interpreter.get_tensor(vector["index"])[0]
        np.testing.assert_allclose(found, embedder.encode("three little words"), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("google/embeddinggemma-300m", "embeddinggemma-300M_seq512_mixed-precision.tflite"),
        ("someone/EmbeddingGemma tuned", "EmbeddingGemma-tuned_seq512_mixed-precision.tflite"),
    ],
)
def test_only_googles_checkpoint_has_googles_name(tiny_checkpoint: Path, name: str, file: str) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    named = replace(checkpoint, source=replace(checkpoint.source, name=name))
    assert litert_file(named, "mixed", 512) == file


def test_a_litert_export_and_its_gate_do_without_onnx(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Where only what LiteRT needs is installed: the import of onnx fails there."""
    program = (
        "import sys; sys.modules['onnx'] = None; from embedding_export.cli import main; sys.exit(main())"
    )
    options = ["--format", "litert", "--precision", "fp32", "--buckets", "32"]
    command = [sys.executable, "-c", program, str(tiny_checkpoint), str(tmp_path / "bundle"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (graph,) = load_manifest(tmp_path / "bundle").graphs
    assert (graph.key, graph.parity.status) == ("litert/fp32", "passed")


def test_without_onnx_nothing_is_begun(
    export: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert export(tmp_path / "bundle", "--format", "litert,onnx") == 1
    said = capsys.readouterr().err
    assert "pip install 'embedding-edge[export]'" in said
    assert "reading" not in said
    assert list(tmp_path.iterdir()) == []
