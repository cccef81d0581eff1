"""transformers.js on a bundle's folder gives the Embedder's vectors. Needs Node; `make test-clients`."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import assumed

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime import Embedder
from embedding_runtime.bundle import Precision

pytestmark = pytest.mark.clients

# Where `make test-clients` installs transformers.js.
INSTALLED = Path(__file__).parents[3] / "build" / "clients"
TEXTS = [
    "task: search result | query: Which planet is known as the Red Planet?",
    "title: none | text: Mars, known for its reddish appearance, is often referred to as the Red Planet.",
    "a",
    "Привет, 世界! " * 20,
]
# What transformers.js calls a precision, and how far it may be: its ONNX Runtime is another version, whose
# kernels may sum in another order. Quantized activations turn that into another rounding now and then.
DTYPES: list[tuple[str, Precision, float]] = [
    ("fp32", "fp32", 1e-5),
    ("fp16", "fp16", 1e-5),
    ("int8", "int8", 2e-3),
    ("q4", "int4", 2e-3),
]


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clients") / "bundle"
    precisions = tuple(precision for _, precision, _ in DTYPES)
    export_bundle(load_checkpoint(tiny_checkpoint), folder, ExportOptions(precisions), assumed)
    return folder


@pytest.mark.parametrize(("dtype", "precision", "tolerance"), DTYPES, ids=[d[0] for d in DTYPES])
def test_the_same_vectors(bundle: Path, dtype: str, precision: Precision, tolerance: float) -> None:
    found = node(bundle, dtype)
    with Embedder.load(bundle, precision=precision, device_cache=False) as embedder:
        expected = embedder.encode(TEXTS)
        for text, one, vector in zip(TEXTS, found["alone"], expected, strict=True):
            assert one["ids"] == embedder.tokenize([text])["input_ids"].tolist()
            np.testing.assert_allclose(one["vectors"][0], vector, atol=tolerance)
    np.testing.assert_allclose(found["batched"]["vectors"], expected, atol=tolerance)


def test_the_graph_it_takes_by_itself(bundle: Path) -> None:
    """As the Embedder: int8 where there is one."""
    found = node(bundle)
    with Embedder.load(bundle, device_cache=False) as embedder:
        assert embedder.graph.precision == "int8"
        np.testing.assert_allclose(found["batched"]["vectors"], embedder.encode(TEXTS), atol=2e-3)


def node(bundle: Path, *dtype: str) -> Any:
    command = ["node", str(INSTALLED / "vectors.mjs"), str(bundle), *dtype]
    done = subprocess.run(command, input=json.dumps(TEXTS), capture_output=True, text=True, cwd=INSTALLED)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
