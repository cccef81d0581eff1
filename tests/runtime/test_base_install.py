"""A board's install: no extras, in an environment of its own, built from this clone."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from embedding_runtime import Embedder

ROOT = Path(__file__).parents[2]
QUERY = "Which planet is known as the Red Planet?"
HEAVY = ("torch", "transformers", "sentence_transformers", "huggingface_hub", "onnx", "safetensors")

PROGRAM = """
import sys, numpy
from embedding_runtime import Embedder
embedder = Embedder.load(sys.argv[1], threads=1)
numpy.save(sys.argv[2], embedder.encode_query(sys.argv[3], dim=32))
loaded = {name.split(".")[0] for name in sys.modules}
print(*sorted(loaded & set(sys.argv[4:])))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    found = folder / "bin" / "python"
    subprocess.run([found, "-m", "pip", "install", "--quiet", str(ROOT)], check=True, capture_output=True)
    return found


@pytest.mark.filterwarnings("ignore::embedding_runtime.errors.EmbeddingWarning")
def test_it_gives_the_same_vector(python: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "vector.npy"
    done = subprocess.run(
        [python, "-c", PROGRAM, tiny_bundle, out, QUERY, *HEAVY], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == [], "loaded on the way"
    with Embedder.load(tiny_bundle, threads=1) as embedder:
        np.testing.assert_array_equal(np.load(out), embedder.encode_query(QUERY, dim=32))


@pytest.mark.parametrize("package", ["torch", "transformers", "sentence_transformers", "onnx"])
def test_nothing_heavy_is_installed(python: Path, package: str) -> None:
    done = subprocess.run([python, "-c", f"import {package}"], capture_output=True, text=True)
    assert "ModuleNotFoundError" in done.stderr


@pytest.mark.parametrize(
    ("command", "needs"), [("export-embedding", "export"), ("validate-embedding", "validate")]
)
def test_a_missing_extra_is_named(
    python: Path, command: str, needs: str, tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    checking: list[str | Path] = [tiny_bundle, "--reference", tiny_checkpoint]
    arguments: list[str | Path] = checking if command == "validate-embedding" else [tiny_checkpoint, "bundle"]
    done = subprocess.run(
        [python.with_name(command), *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert f"embedding-edge[{needs}]" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_compares_graphs(python: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    """JSON and text on the board itself; the page is made where its extra is."""
    quick = ["--threads", "1", "--lengths", "4", "--seconds", "0.05", "--rounds", "3"]
    done = subprocess.run(
        [python.with_name("compare-embedding"), tiny_bundle, "--output", tmp_path / "out", *quick],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (run,) = json.loads((tmp_path / "out" / "compare.json").read_text(encoding="utf-8"))["runs"]
    assert run["complete"] and [c["status"] for c in run["cases"]] == ["measured"]
    assert "take onnx/fp32" in (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")
    assert "embedding-edge[validate]" in done.stderr and not (tmp_path / "out" / "compare.html").exists()
