"""Recorded outputs of the phones' tools (sources: phone_logs/SOURCES.md), and published figures, as runs."""

import json
from pathlib import Path

import pytest

from embedding_runtime.errors import InputError
from embedding_validate.compare import cli as compare
from embedding_validate.compare.document import phone_logs

LOGS = Path(__file__).with_name("phone_logs")
PUBLISHED = Path(__file__).parents[4] / "validate" / "published"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_benchmark_model() -> None:
    (run,) = phone_logs.read(LOGS / "benchmark_model_2021.log")
    assert (run.label, run.origin) == ("Raspberry Pi", "benchmark_model")
    (case,) = run.cases
    assert case.mean_ms == pytest.approx(55.0432) and case.median_ms is None
    assert case.first_ms == pytest.approx(64.791) and case.load_s == pytest.approx(0.018777)
    assert (case.threads, case.tokens, case.runs) == (4, 256, 50)
    assert case.memory_bytes == 18722700


def test_benchmark_model_with_a_prefix_and_a_signature(tmp_path: Path) -> None:
    text = (LOGS / "benchmark_model_2024.log").read_text(encoding="utf-8")
    (run,) = phone_logs.read(LOGS / "benchmark_model_2024.log")
    assert run.cases[0].mean_ms == pytest.approx(13.5202) and run.cases[0].tokens == 128
    text = text.replace("run: []", "run: [embed_64]").replace(
        "std=470", "std=470 p5=13110 median=13400 p95=15001"
    )
    (case,) = phone_logs.read(write(tmp_path / "p.log", text))[0].cases
    assert (case.tokens, case.median_ms, case.p5_ms, case.p95_ms) == (64, 13.4, 13.11, 15.001)


def test_perf_test() -> None:
    (run,) = phone_logs.read(LOGS / "onnxruntime_perf_test_2020.log")
    plain, statistics = run.cases
    assert (plain.mean_ms, plain.load_s, plain.runs) == (144.871, 0.127918, 10)
    assert plain.memory_bytes == 158171136 and plain.median_ms is None
    assert statistics.median_ms == pytest.approx(58.7108) and statistics.p95_ms == pytest.approx(60.5676)
    assert statistics.threads == 2, "holds until it is named again"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "neither benchmark_model's"),
        ("", "holds no output"),
        ("# graph: a\nAverage time cost: 3 ms", "'# device: ...'"),
        ("# device: d\n# graph: a\nAverage time cost: 3 ms", "'# tokens: NUMBER'"),
        ("# device: d\n# graph: a\n# tokens: 4\nAverage time cost: 3 ms", "'# threads: NUMBER'"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        phone_logs.read(write(tmp_path / "p.log", text))


def test_published_figures_are_shown_as_published(tmp_path: Path) -> None:
    published = [str(path) for path in sorted(PUBLISHED.glob("*.json"))]
    logs = [str(path) for path in sorted(LOGS.glob("*.log"))]
    assert compare.main(["--merge", *published, *logs, "--output", str(tmp_path / "out")]) == 0
    document = json.loads((tmp_path / "out" / "compare.json").read_text(encoding="utf-8"))
    origins = [r["origin"] for r in document["runs"]]
    assert len(origins) == 5 and origins.count("published") == len(published) == 2
    for run in (r for r in document["runs"] if r["origin"] == "published"):
        assert run["source"] and all(c["status"] == "published" for c in run["cases"])
        assert all(c["median_ms"] is None for c in run["cases"]), "nobody measured it here"
    row = "| embeddinggemma-300M, mixed precision, CPU | – | 256 | 66 | published | – | – | 110 |"
    assert row in (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")
    for name in ("compare.md", "compare.html"):
        shown = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert "Published, not measured here" in shown
        assert "Measured by benchmark_model on Pixel" in shown
        assert "Measured by onnxruntime_perf_test" in shown and "13.5" in shown and "mean" in shown
    again = ["--merge", str(tmp_path / "out" / "compare.json"), "--output", str(tmp_path / "again")]
    assert compare.main(again) == 0
    assert json.loads((tmp_path / "again" / "compare.json").read_text(encoding="utf-8")) == document


def test_neither_comparison_nor_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "x.json", "{}")
    assert compare.main(["--merge", str(path), "--output", str(tmp_path / "out")]) == 2
    assert "neither a compare.json nor published" in capsys.readouterr().err
