"""`validate-embedding --cross`: documents of one bundle, queries of another, and what that costs."""

import html
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import standin
from conftest import assumed

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime import Embedder
from embedding_validate.cli import main
from embedding_validate.cross.measure import read_packaged_corpus

Captured = pytest.CaptureFixture[str]
WORDS = ["red", "planet", "ocean", "river", "stone", "search", "light", "plant", "code", "lock"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Queries that are the beginnings of their documents."""
    path = tmp_path_factory.mktemp("corpus") / "pairs.jsonl"
    texts = [f"{a} {b} and {b} {c}" for a in WORDS for b, c in zip(WORDS, WORDS[3:], strict=False)]
    rows = [json.dumps({"query": text[:9], "document": text}) for text in texts[:40]]
    path.write_text("\n".join(rows))
    return path


@pytest.fixture
def device(litert_bundle: Path, tmp_path: Path) -> Path:
    """A copy that a test may write to."""
    return Path(shutil.copytree(litert_bundle, tmp_path / "device"))


def run(capsys: Captured, *options: object) -> tuple[int, dict[str, Any], str]:
    """Exit status, the printed document, and what stands on stderr."""
    status = main([*map(str, options), "--json"])
    captured = capsys.readouterr()
    return status, json.loads(captured.out) if captured.out else {}, captured.err


def test_queries_of_every_graph(served_bundle: Path, device: Path, pairs: Path, capsys: Captured) -> None:
    status, found, said = run(capsys, "--cross", served_bundle, device, "--corpus", pairs)
    assert status == 0
    assert found["passed"] is True and found["failures"] == {}
    assert found == json.loads((device / "cross.json").read_text())
    rows = {(r["graph"], r["dim"], r["vector_precision"]): r for r in found["rows"]}
    graphs = ("onnx/fp32", "onnx/int8", "litert/fp32", "litert/int8")
    assert set(rows) == {(g, 64, p) for g in graphs for p in ("float32", "int8", "ubinary")}
    for precision in ("float32", "int8", "ubinary"):
        same = rows["onnx/fp32", 64, precision]
        assert same["overlap"] == same["least"] == 1 and same["ndcg"] == same["ndcg_fp32"]
    eight = rows["onnx/int8", 64, "float32"]
    assert 0.7 < eight["overlap"] < 1, "8 bits change some of the first ten"
    assert "onnx/int8 dim 64 float32: top 10 overlap" in said
    page = html.unescape((device / "cross.html").read_text())
    assert f"{eight['overlap']:.4f}" in page and "queries by the graphs of the device" in page


def test_the_figures_are_a_search(served_bundle: Path, device: Path, pairs: Path, capsys: Captured) -> None:
    """The overlap of one row, computed anew from the public Embedder."""
    _, found, _ = run(capsys, "--cross", served_bundle, device, "--corpus", pairs)
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    documents = list(dict.fromkeys(row["document"] for row in rows))
    queries = list(dict.fromkeys(row["query"] for row in rows))
    first = []
    with (
        Embedder(served_bundle, precision="fp32", threads=1) as server,
        Embedder(device, format="onnx", precision="int8", threads=1) as phone,
    ):
        stored = server.encode_document(documents)
        for asked in (server, phone):
            scores = np.round(asked.encode_query(queries) @ stored.T, 6)
            first.append([set(np.argsort(-row, kind="stable")[:10].tolist()) for row in scores])
    shares = [len(a & b) / 10 for a, b in zip(*first, strict=True)]
    (row,) = (r for r in found["rows"] if (r["graph"], r["vector_precision"]) == ("onnx/int8", "float32"))
    assert row["overlap"] == pytest.approx(np.mean(shares), abs=0.02)


def test_the_gate(served_bundle: Path, device: Path, pairs: Path, capsys: Captured) -> None:
    command = ["--cross", served_bundle, device, "--corpus", pairs]
    status, found, said = run(capsys, *command, "--min-overlap", "0.9999")
    assert (status, found["passed"]) == (1, False)
    assert "onnx/int8 dim 64 float32" in said and "TOO LITTLE" in said
    assert "Too much is lost" in (device / "cross.html").read_text()
    assert run(capsys, *command, "--min-overlap", "0")[0] == 0
    assert "Every graph finds enough" in (device / "cross.html").read_text()


def test_a_graph_that_cannot_be_run(served_bundle: Path, device: Path, pairs: Path, capsys: Captured) -> None:
    graph = (
        next((device / "onnx").glob("*quantized*.onnx"), None) or sorted((device / "onnx").glob("*.onnx"))[-1]
    )
    graph.write_bytes(b"broken" * 100)
    status, found, said = run(capsys, "--cross", served_bundle, device, "--corpus", pairs)
    assert status == 1 and found["passed"] is False
    assert len(found["failures"]) == 1 and found["rows"]
    assert "export" in said


def test_neighbours_and_torch(
    served_bundle: Path, tiny_checkpoint: Path, device: Path, tmp_path: Path, capsys: Captured
) -> None:
    """Plain documents ask for their neighbours; the documents are the reference's."""
    lines = tmp_path / "lines.txt"
    lines.write_text("".join(f"{a} {b}\n" for a in WORDS for b in WORDS[:3]))
    command = ["--cross", served_bundle, device, "--corpus", lines, "--reference", tiny_checkpoint]
    status, found, _ = run(capsys, *command)
    assert status == 0 and found["documents_by"] == "torch/fp32"
    rows = {(r["graph"], r["vector_precision"]): r for r in found["rows"]}
    assert rows["onnx/fp32", "float32"]["overlap"] > 0.99
    assert rows["onnx/fp32", "float32"]["ndcg"] is None


def test_what_is_refused(
    served_bundle: Path, device: Path, tmp_path: Path, tiny_checkpoint: Path, capsys: Captured
) -> None:
    standin.write(tmp_path / "checkpoint", standin.Options(seed=7))
    other = tmp_path / "other"
    export_bundle(load_checkpoint(tmp_path / "checkpoint"), other, ExportOptions(("int8",)), assumed)
    assert main(["--cross", str(served_bundle), str(other)]) == 2
    assert "cannot be searched together" in capsys.readouterr().err
    assert main(["--cross", str(other), str(other)]) == 2
    assert "Add it with export-embedding --add --precision fp32" in capsys.readouterr().err
    assert (
        main(["--cross", str(served_bundle), str(device), "--reference", str(tmp_path / "checkpoint")]) == 2
    )
    assert "Give the checkpoint that the bundle was exported from" in capsys.readouterr().err
    assert main(["--cross", str(served_bundle), str(device), "--reference", "x.npz"]) == 2
    assert "holds only answers" in capsys.readouterr().err
    assert not (other / "cross.json").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["bundle"], "required: --reference"),
        (["bundle", "--reference", "x", "--corpus", "f"], "--corpus needs --cross"),
        (["bundle", "--reference", "x", "--min-overlap", "0"], "--min-overlap needs --cross"),
        (["--cross", "a", "b", "--golden"], "--golden does not go with --cross"),
        (["--cross", "a", "b", "--min-overlap", "2"], "expected a number from 0 to 1"),
        (["--cross", "a", "b", "--min-overlap", "nan"], "expected a number from 0 to 1"),
        (["bundle", "--cross", "a", "b"], "not allowed with"),
    ],
)
def test_options_that_do_not_go_together(options: list[str], said: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(options)
    assert said in capsys.readouterr().err


def test_the_packaged_corpus() -> None:
    found = read_packaged_corpus()
    assert len(found.documents) == len(found.queries) > 300
    assert found.relevant is not None and found.relevant[7] == {7}
