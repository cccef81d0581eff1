"""The conformance file beside a LiteRT graph: a client that is not ours reproduces it."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from embedding_export.litert.conformance import Subject, write_litert_conformance
from embedding_runtime import Embedder
from embedding_runtime.bundle import load_manifest
from embedding_runtime.engines.litert_session import LitertSession

PRECISIONS = ("fp32", "int8")


@pytest.fixture(scope="module", params=PRECISIONS)
def document(litert_bundle: Path, request: pytest.FixtureRequest) -> Any:
    file = litert_bundle / "litert" / f"model_{request.param}_conformance.json"
    return json.loads(file.read_text(encoding="utf-8"))


def test_the_plain_interpreter_reproduces_it(litert_bundle: Path, document: Any) -> None:
    """As an app does: ids as they stand, padded to the bucket, one signature run."""
    interpreter = Interpreter(model_path=str(litert_bundle / document["file"]))
    given, taken = document["input"], document["output"]
    for case in document["cases"]:
        tokens = np.full((1, case["bucket"]), given["pad_id"], dtype=given["dtype"])
        tokens[0, : len(case["ids"])] = case["ids"]
        runner = interpreter.get_signature_runner(document["signatures"][str(case["bucket"])])
        (found,) = runner(**{given["name"]: tokens})[taken["name"]]
        assert found.shape == (taken["dim"],)
        np.testing.assert_allclose(found, case["vector"], atol=document["max_abs_error"]["any"])


def test_the_runtime_gives_its_numbers(litert_bundle: Path, document: Any) -> None:
    """The digits are all there: no tolerance."""
    precision = document["file"].split("_")[-1].removesuffix(".tflite")
    with Embedder.load(litert_bundle, format="litert", precision=precision) as embedder:
        for case in document["cases"]:
            if case["text"] is not None:
                assert embedder.tokenize([case["text"]])["input_ids"][0].tolist() == case["ids"]
                found = embedder.encode(case["text"], prompt="")
                np.testing.assert_array_equal(found, np.array(case["vector"], dtype=np.float32))


def test_what_it_says_is_the_manifest_s(litert_bundle: Path, document: Any) -> None:
    manifest = load_manifest(litert_bundle)
    (graph,) = [g for g in manifest.graphs if g.variant_id == document["variant_id"]]
    assert document["file"] == graph.file
    assert document["prompts"] == manifest.prompts
    assert document["input"]["pad_id"] == manifest.tokenizer.pad_id
    assert [int(size) for size in document["signatures"]] == list(graph.buckets)
    assert document["max_tokens"] == graph.buckets[-1] < manifest.max_seq_length
    assert {case["bucket"] for case in document["cases"]} >= {graph.buckets[0], graph.buckets[-1]}
    assert f"litert/model_{graph.precision}_conformance.json" in manifest.files


@pytest.mark.filterwarnings("ignore::embedding_runtime.errors.EmbeddingWarning")
def test_shorter_vectors(litert_bundle: Path, tmp_path: Path) -> None:
    manifest = load_manifest(litert_bundle)
    graph = next(g for g in manifest.graphs if g.key == "litert/fp32")
    texts = manifest.tokenizer.golden
    session = LitertSession(litert_bundle / graph.file, 1, manifest.tokenizer.pad_id)
    out = tmp_path / "conformance.json"
    assert write_litert_conformance(out, graph, Subject({}, (64, 16), 2048), texts, session) > len(texts)
    (short,) = json.loads(out.read_text(encoding="utf-8"))["shortened"]
    with Embedder.load(litert_bundle, format="litert", precision="fp32", threads=1) as embedder:
        expected = embedder.encode(texts[0].text, prompt="", dim=short["dim"])
    assert short["dim"] == 16
    np.testing.assert_allclose(short["vector"], expected, atol=1e-6)


def test_the_page_s_code_names_what_a_file_has(document: Any) -> None:
    page = (Path(__file__).parents[3] / "runtime" / "LITERT.md").read_text(encoding="utf-8")
    assert all(name == f"embed_{size}" for size, name in document["signatures"].items())
    assert '"embed_$size"' in page and '"embed_\\(size)"' in page
    assert f'["{document["input"]["name"]}": ' in page
    assert f'output(named: "{document["output"]["name"]}")' in page


def test_its_fields_are_documented(document: Any) -> None:
    page = (Path(__file__).parents[3] / "runtime" / "LITERT.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    told = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert told == set(document)
    inside = {*document["input"], *document["output"], *document["cases"][0]}
    assert inside <= set(re.findall(r"`(\w+)`", page))
