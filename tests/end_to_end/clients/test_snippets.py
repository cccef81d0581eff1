"""The JavaScript of the page on ONNX graphs, run in Node as it stands there. `make test-clients`."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedding_runtime import Embedder
from embedding_runtime.bundle import Precision

pytestmark = pytest.mark.clients

ROOT = Path(__file__).parents[3]
INSTALLED = ROOT / "build" / "clients"
BLOCKS = re.findall(r"```js\n(.*?)```", (ROOT / "runtime" / "ONNX.md").read_text(encoding="utf-8"), re.S)
TEXTS = ["Which planet is known as the Red Planet?", "a", "Привет, 世界! " * 20]


def node(script: str, values: Any) -> Any:
    """What a script prints, as JSON; it finds the packages, and `values` as `given`."""
    path = INSTALLED / "snippet.mjs"
    path.write_text(f"const given = {json.dumps(values)};\n{script}", encoding="utf-8")
    done = subprocess.run(["node", path], capture_output=True, text=True, cwd=INSTALLED)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("dtype", "precision", "tolerance"), [("fp32", "fp32", 1e-5), ("int8", "int8", 2e-3)]
)
def test_transformers_js(served_bundle: Path, dtype: str, precision: Precision, tolerance: float) -> None:
    with Embedder.load(served_bundle, precision=precision, device_cache=False) as embedder:
        prompt = embedder.prompts["query"]
        expected = embedder.encode(TEXTS, prompt=prompt, dim=32)
    script = BLOCKS[0] + (
        "const embed = await open(given.folder, given.name, given.dtype);\n"
        "console.log(JSON.stringify(await embed(given.prompt, given.texts, 32)));\n"
    )
    given = {"folder": str(served_bundle.parent), "name": served_bundle.name, "dtype": dtype}
    found = node(script, {**given, "prompt": prompt, "texts": TEXTS})
    np.testing.assert_allclose(found, expected, atol=tolerance)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("int8", 2e-3)])
def test_onnxruntime_web(served_bundle: Path, precision: Precision, tolerance: float) -> None:
    with Embedder.load(served_bundle, precision=precision, device_cache=False) as embedder:
        expected = embedder.encode(TEXTS)
        ids = [embedder.tokenize([text])["input_ids"][0].tolist() for text in TEXTS]
        graph = embedder.graph
    script = (
        "import { readFileSync } from 'node:fs';\n"
        + BLOCKS[1]
        + (
            "const [graph, weights] = [given.graph, given.weights].map((path) => readFileSync(path));\n"
            "const embed = await openGraph(graph, weights, given.name, 1);\n"
            "const found = [];\n"
            "for (const ids of given.ids) found.push([...await embed(ids)]);\n"
            "console.log(JSON.stringify(found));\n"
        )
    )
    weights = served_bundle / graph.external_data[0]
    given = {
        "graph": str(served_bundle / graph.file),
        "weights": str(weights),
        "name": weights.name,
        "ids": ids,
    }
    np.testing.assert_allclose(node(script, given), expected, atol=tolerance)
