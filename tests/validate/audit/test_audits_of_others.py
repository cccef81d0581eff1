"""Files that other tools made of a checkpoint, audited: `make test-audits` installs the tools.

optimum-cli needs an older transformers than the reference, so it lives in build/peers/optimum; the naive
LiteRT conversion needs litert-torch (`pip install litert-torch==0.10.0`). Prints every verdict.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import standin

from embedding_validate.cli import main

ROOT = Path(__file__).parents[3]
OPTIMUM = ROOT / "build" / "peers" / "optimum" / "bin" / "optimum-cli"
pytestmark = pytest.mark.audits
needs_optimum = pytest.mark.skipif(not OPTIMUM.exists(), reason="needs optimum-cli (make test-audits)")


def _run(*command: str | Path) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]


def _audit(file: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    status = main(["--audit", str(file), "--reference", str(checkpoint), "--json"])
    captured = capsys.readouterr()
    (graph,) = json.loads(captured.out)["graphs"].values()
    named = [f"{f['name']} ({f['evidence']})" for f in graph["findings"]]
    with capsys.disabled():
        sys.stdout.write(f"\n{file.name}: {graph['status']}, {graph['checks']} checks; {named}")
    return status, graph


@pytest.fixture(scope="module")
def exported(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `optimum-cli export onnx` makes of the checkpoint with both of its libraries."""
    folder = tmp_path_factory.mktemp("optimum")
    for library in ("sentence_transformers", "transformers"):
        arguments = ["--library-name", library, "--task", "feature-extraction", folder / library]
        _run(OPTIMUM, "export", "onnx", "--model", tiny_checkpoint, *arguments)
    return folder


@needs_optimum
def test_optimum_with_sentence_transformers(
    exported: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, graph = _audit(exported / "sentence_transformers" / "model.onnx", tiny_checkpoint, capsys)
    assert (status, graph["status"], graph["findings"]) == (0, "passed", [])


@needs_optimum
def test_optimum_with_transformers_drops_the_dense_stages(
    exported: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, graph = _audit(exported / "transformers" / "model.onnx", tiny_checkpoint, capsys)
    assert (status, [f["name"] for f in graph["findings"]]) == (1, ["all Dense stages missing"])


@needs_optimum
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "outliers"])
def test_optimum_int8(tmp_path: Path, capsys: pytest.CaptureFixture[str], plain: bool) -> None:
    """Its activations have one scale for the whole batch: vectors change with it, and a trained
    model's outliers leave the rest of a text next to nothing even alone."""
    standin.write(tmp_path / "checkpoint", standin.Options(plain=plain))
    library = ("--library-name", "sentence_transformers", "--task", "feature-extraction")
    _run(OPTIMUM, "export", "onnx", "--model", tmp_path / "checkpoint", *library, tmp_path / "fp32")
    quantize = (OPTIMUM, "onnxruntime", "quantize", "--avx512_vnni")
    _run(*quantize, "--onnx_model", tmp_path / "fp32", "-o", tmp_path / "int8")
    status, graph = _audit(tmp_path / "int8" / "model_quantized.onnx", tmp_path / "checkpoint", capsys)
    assert status == 1 and graph["invariance"]["batch"] > graph["thresholds"]["batch_error"]
    assert (graph["cosine"]["minimum"] > 0.97) == plain
    assert "vectors change with the batch" in graph["reason"]
    assert bool(graph["findings"]) != plain


@pytest.mark.skipif(importlib.util.find_spec("litert_torch") is None, reason="needs litert-torch")
def test_the_naive_litert_conversion_reshapes_the_keys(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It converts without an error, from a module that gives the right vectors in torch."""
    script, file = ROOT / "validate" / "peers" / "litert_naive.py", tmp_path / "naive.tflite"
    _run(sys.executable, script, tiny_checkpoint, "64", file)
    status, graph = _audit(file, tiny_checkpoint, capsys)
    names = [f["name"] for f in graph["findings"]]
    assert (status, names) == (1, ["keys reshaped where they should be transposed"])
    assert graph["cosine"]["minimum"] < 0.9
