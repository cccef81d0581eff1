"""compare-embedding --corpus: what is read, what is scored, and a small corpus through a tiny bundle."""

import html
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from embedding_runtime import Embedder
from embedding_runtime.errors import InputError
from embedding_validate.compare import cli as compare
from embedding_validate.compare.corpus import corpus
from embedding_validate.compare.corpus.scores import Embedded, changed, cost, ndcg, scores, top

PAIRS = [
    ("Which planet is red?", "Mars is called the Red Planet because of its iron oxide."),
    ("How do plants eat?", "Photosynthesis turns light into sugar."),
    ("What is a mutex?", "A mutex lets one thread at a time into a section."),
    ("How do plants eat?", "Roots take up water and minerals."),
    ("capital of France", "Paris is the capital of France."),
]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_one_document_per_line(tmp_path: Path) -> None:
    found = corpus.read(write(tmp_path / "c.txt", "one\ntwo\n\nthree\none\n"))
    assert found.documents == ("one", "two", "three")
    assert found.relevant is None and found.asked == found.documents
    assert found.candidates == 2, "each asks for the others"


@pytest.mark.parametrize("suffix", [".jsonl", ".tsv"])
def test_pairs(tmp_path: Path, suffix: str) -> None:
    rows = (
        [json.dumps({"query": q, "document": d}) for q, d in PAIRS]
        if suffix == ".jsonl"
        else [f"{q}\t{d}" for q, d in PAIRS]
    )
    found = corpus.read(write(tmp_path / f"c{suffix}", "\n".join(rows)))
    assert found.documents == tuple(d for _, d in PAIRS)
    assert found.queries == found.asked == tuple(dict.fromkeys(q for q, _ in PAIRS))
    assert found.relevant is not None
    assert found.relevant[1] == {1, 3} and found.candidates == 5


def test_objects_with_text(tmp_path: Path) -> None:
    rows = "\n".join(json.dumps({"text": f"t{i}"}) for i in range(600))
    found = corpus.read(write(tmp_path / "c.jsonl", rows))
    assert len(found.documents) == 600 and len(found.asked) == corpus.MOST_QUERIES


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.jsonl", '{"text": 1}', "line 1: expected an object"),
        ("c.jsonl", "[1]", "line 1 is a list; expected an object"),
        ("c.jsonl", '{"query": "a"}', "line 1: expected an object"),
        ("c.jsonl", '{"query": "a", "document": "b"}\n{"text": "c"}\n{"text": "d"}', "some have none"),
        ("c.tsv", "a\tb\tc", "line 1 has 3 fields; expected 1 .text. or 2 .query, document."),
        ("c.txt", "one\none\n", "1 different documents"),
        ("c.txt", "one\ntwo\nBr\xfccke\n".encode("latin-1"), "line 3 is not valid UTF-8"),
        ("missing/c.txt", None, "cannot be read"),
    ],
)
def test_what_is_refused(tmp_path: Path, name: str, text: str | bytes | None, message: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        corpus.read(path)


def test_ndcg() -> None:
    """By hand: relevant ones at ranks 1 and 3 of two: (1 + 1/2) / (1 + 1/log2 3)."""
    row = np.array([[0.9, 0.8, 0.7, 0.1]])
    assert ndcg(row, [frozenset({0, 2})], 3) == pytest.approx(1.5 / (1 + 1 / np.log2(3)))
    assert ndcg(row, [frozenset({3})], 3) == 0
    assert ndcg(row, [frozenset({0})], 3) == 1


def embedded(alike: bool = False) -> Embedded:
    rng = np.random.default_rng(1)
    documents = rng.standard_normal((40, 32)).astype(np.float32)
    asked = documents[:7] if alike else rng.standard_normal((7, 32)).astype(np.float32)
    return Embedded(asked, documents, alike).cut(32)


def test_nobody_is_an_answer_to_himself() -> None:
    scored = scores(embedded(alike=True), "float32")
    assert all(i not in top(scored[i], 10) for i in range(7))
    assert all(len(top(scored[i], 100)) == 39 for i in range(7))


def test_what_nothing_costs() -> None:
    found = embedded()
    line = cost(scores(found, "float32"), found, "same", "float32", (), 10)
    assert (line.overlap, line.spearman, line.shift_most, line.ndcg) == (1, 1, 0, None)
    assert (line.bytes_per_vector, line.index_bytes) == (128, 128 * 40)


def test_what_precisions_and_dims_cost() -> None:
    found = embedded()
    base = scores(found, "float32")
    small = cost(base, found, "x", "int8", (), 10)
    assert small.spearman > 0.999 and small.overlap > 0.9
    assert small.shift_most is not None and 0 < small.shift_most < 0.02
    assert small.bytes_per_vector == 32
    signs = cost(base, found, "x", "ubinary", (), 10)
    assert signs.bytes_per_vector == 4 and signs.shift_most is None
    assert 0.3 < signs.spearman < small.spearman
    half = cost(base, found.cut(16), "x", "float32", (), 10)
    assert half.bytes_per_vector == 64 and half.spearman < 0.999


def test_the_worst_change_comes_first() -> None:
    base = np.array([[0.9, 0.8, 0.1], [0.9, 0.8, 0.1], [0.9, 0.8, 0.1]])
    other = np.array([[0.9, 0.1, 0.8], [0.1, 0.8, 0.9], [0.95, 0.8, 0.1]])
    found = changed(base, other, 2)
    assert [c.query for c in found] == [1, 0]
    assert found[0].before == (0, 1) and found[0].after == (2, 1)
    assert found[1].overlap == 0.5


def test_a_corpus_through_a_bundle(litert_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(litert_bundle, tmp_path / "bundle"))
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "dims": [64, 8, 2]}), encoding="utf-8")
    path = write(tmp_path / "c.jsonl", "\n".join(json.dumps({"query": q, "document": d}) for q, d in PAIRS))
    quick = ["--threads", "1", "--seconds", "0.05", "--rounds", "3", "--lengths", "4"]
    graphs = ["--graphs", "onnx/fp32,litert/int8", "--corpus", str(path)]
    assert compare.main([str(bundle), "--output", str(tmp_path / "out"), *quick, *graphs]) == 0
    found = json.loads((tmp_path / "out" / "compare.json").read_text())["runs"][0]["corpus"]
    assert [json.loads(c[-1])["corpus"] for c in found["commands"].values()] == [str(path)] * 2
    assert found["base"] == "onnx/fp32" and found["pairs"] and found["asked"] == 4
    assert found["k"] == 2, "of five documents, all ten of the first ten would be the same"
    rows = {(r["system"], r["dim"], r["vector_precision"]): r for r in found["rows"]}
    with Embedder.load(bundle, format="onnx", precision="fp32") as embedder:
        whole = embedder.manifest.embedding_dim
        asked = embedder.encode_query(list(dict.fromkeys(q for q, _ in PAIRS)))
        by_hand = asked @ embedder.encode_document([d for _, d in PAIRS]).T
    wanted = [frozenset({0}), frozenset({1, 3}), frozenset({2}), frozenset({4})]
    assert found["base_ndcg"] == pytest.approx(ndcg(by_hand, wanted, 10), abs=1e-6)
    assert rows["onnx/fp32", whole, "float32"]["spearman"] == 1
    assert 0 < rows["litert/int8", whole, "float32"]["shift_most"] < 0.2
    page, text = ((tmp_path / "out" / f"compare.{n}").read_text(encoding="utf-8") for n in ("html", "md"))
    assert "On your texts" in page
    labels = {f"{name}, dim {dim}" for name in ("onnx/fp32", "litert/int8") for dim in (64, 8, 2)}
    assert found["changed"].keys() == labels - {"onnx/fp32, dim 64"}, "all but the base itself"
    assert found["changed"]["onnx/fp32, dim 2"]["count"] > 0
    for label, change in found["changed"].items():
        assert f"- {label}: {change['count']} of 4 change their first 2" in text
        assert f"{label}: {change['count'] or 'none'} of 4 change" in page
        assert len(change["texts"]) == change["count"]
        assert all(html.escape(t["asked"]) in page for t in change["texts"])
    assert not (tmp_path / "out" / "cache").exists()
