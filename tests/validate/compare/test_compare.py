"""compare-embedding on a tiny bundle: both formats, peers that end badly, Ctrl-C, a base install."""

import html
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import browser
import numpy as np
import pytest

from embedding_runtime import Embedder
from embedding_runtime.bundle import load_manifest
from embedding_validate.compare import cli as compare
from embedding_validate.compare.corpus import corpus
from embedding_validate.compare.document.document import SCHEMA_VERSION
from embedding_validate.compare.measure import systems as compare_systems
from embedding_validate.compare.measure import worker as compare_worker
from embedding_validate.compare.measure.protocol import token_ids
from embedding_validate.compare.report.grid import number
from embedding_validate.measures.metrics import cosine
from embedding_validate.probes.texts import packaged

QUICK = ["--threads", "1", "--seconds", "0.05", "--rounds", "3"]
COMMAND = [sys.executable, "-m", "embedding_validate.compare.cli"]

# Peers: one fast and wrong, one that aborts on longer texts, one that wants more memory than there is.
PEERS = """
import os, sys
import numpy as np
from embedding_validate.compare.measure.protocol import serve

def wrong(spec):
    return lambda: lambda ids: np.random.default_rng(0).standard_normal((len(ids), 64)).astype(np.float32)

def aborts(spec):
    def run(ids):
        if ids.shape[1] > 4:
            os.abort()
        return np.ones((len(ids), 64), np.float32)
    return lambda: run

def greedy(spec):
    import resource
    def load():
        resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31))
        np.ones(1 << 32)
    return load

sys.exit(serve({"wrong": wrong, "aborts": aborts, "greedy": greedy}))
"""


def measured(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
    assert document["schema_version"] == SCHEMA_VERSION
    (run,) = document["runs"]
    assert isinstance(run, dict)
    return run


@pytest.fixture(scope="module")
def both(litert_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results' folder for two graphs of either format at two shapes."""
    output = tmp_path_factory.mktemp("compared") / "out"
    graphs = ["--graphs", "onnx/fp32,litert/int8"]
    status = compare.main(
        [str(litert_bundle), "--output", str(output), *graphs, *QUICK, "--lengths", "4,2x9"]
    )
    assert status == 0
    return output


@pytest.fixture(scope="module")
def peers(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results' folder for a bundle beside three peers."""
    folder = tmp_path_factory.mktemp("peers")
    (folder / "peers.py").write_text(PEERS)
    asked = [
        f"--peer={name}={sys.executable}={folder / 'peers.py'}" for name in ("wrong", "aborts", "greedy")
    ]
    output = folder / "out"
    arguments = [str(tiny_bundle), "--output", str(output), *QUICK, "--lengths", "4,8", *asked]
    assert compare.main(arguments) == 0, "peers that fail are rows, not failures"
    return output


def test_every_figure_of_both_formats(both: Path, litert_bundle: Path) -> None:
    run = measured(both)
    assert run["complete"] and run["finished"] >= run["started"]
    assert {c["system"] for c in run["cases"]} == {"onnx/fp32", "litert/int8"}
    assert len(run["cases"]) == 4
    for case in run["cases"]:
        assert case["status"] == "measured"
        assert 0 < case["p5_ms"] <= case["median_ms"] <= case["p95_ms"]
        # rounded figures
        assert case["tokens_per_s"] == pytest.approx(
            case["batch"] * case["tokens"] / case["median_ms"] * 1e3, rel=0.01
        )
        assert case["load_s"] > 0 and case["first_ms"] > 0
        if sys.platform == "linux":
            memory = case["memory"]
            assert memory["anonymous_peak"] > memory["anonymous_before"] > 0
            assert memory["file_peak"] > 0
            assert memory["peak"] >= memory["anonymous_peak"]
    manifest = load_manifest(litert_bundle)
    for about, key in zip(run["systems"], ("onnx/fp32", "litert/int8"), strict=True):
        (graph,) = [g for g in manifest.graphs if g.key == key]
        assert about["variant_id"] == graph.variant_id
        assert about["bytes"] == sum(
            (litert_bundle / f).stat().st_size for f in (graph.file, *graph.external_data)
        )
        assert sum(about["parts"].values()) == about["bytes"]
        assert about["parts"]["table"] > about["parts"]["Dense"] > 0
        assert about["parity"]["status"] == "passed"


def test_figures_come_from_the_samples(both: Path) -> None:
    """What is shown can be computed again from what is kept."""
    from statistics import median

    for case in measured(both)["cases"]:
        own, reference = case["samples"]["own"], case["samples"]["reference"]
        assert case["runs"] == sum(map(len, own))
        assert case["median_ms"] == pytest.approx(1e3 * median([s for block in own for s in block]), rel=1e-3)
        ratios = [median(r) / median(o) for r, o in zip(reference, own, strict=True)]
        assert case["ratio"] == pytest.approx(median(ratios), rel=1e-3)
        assert "embedding_validate.compare.measure.worker" in case["command"]
        assert json.loads(case["command"][-1])["threads"] == 1


def test_accuracy_is_measured_on_text(both: Path, litert_bundle: Path) -> None:
    """On the vectors that the runtime gives for the package's texts, not on the ids of the timed runs."""
    run = measured(both)
    opened = {o["system"]: o["accuracy"] for o in run["openings"]}
    assert opened["onnx/fp32"]["minimum"] == opened["onnx/fp32"]["mean"] == pytest.approx(1)
    found = opened["litert/int8"]
    texts = [t.text for t in packaged()]
    assert len(texts) - 5 < found["texts"] <= len(texts)
    vectors = []
    for embedder in (
        Embedder.load(litert_bundle, format="onnx", precision="fp32", threads=1),
        Embedder.load(litert_bundle, format="litert", precision="int8", threads=1),
    ):
        with embedder:
            vectors.append(embedder.encode(texts, batch_size=1))
    cosines = list(map(cosine, *vectors))
    assert found["minimum"] == pytest.approx(min(cosines), abs=2e-3)
    assert found["mean"] == pytest.approx(np.mean(cosines), abs=2e-3)
    assert all("cosine" not in case for case in run["cases"])


def test_one_s_own_texts_count_too(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("one of mine\nanother of mine\nand a third\n", encoding="utf-8")
    mine, bundles = corpus.read(tmp_path / "mine.txt"), compare_systems.read_bundles([tiny_bundle])
    package, both = (compare_systems.texts(bundles, own) for own in ((), mine.documents))
    assert set(both) > set(package) and len(both) == len(package) + 3


def test_openings(both: Path) -> None:
    for opening in measured(both)["openings"]:
        assert opening["first_s"] > 0 and opening["cold_s"] > 0
        assert opening["dropped"] is hasattr(os, "posix_fadvise")
        engine = "onnxruntime" if opening["system"].startswith("onnx") else "ai-edge-litert"
        assert opening["status"] == "measured" and engine in opening["versions"]
        assert json.loads(opening["command"][-1])["precision"] == opening["system"].partition("/")[2]
    tokenizers = measured(both)["tokenizers"]
    assert [(c["batch"], c["tokens"]) for c in tokenizers] == [(1, 4), (2, 9)]
    assert all(c["median_ms"] > 0 and c["ratio"] is None for c in tokenizers)


def test_the_reference_case_beside_itself(both: Path) -> None:
    """Its own fresh process against its standing one: the same speed, unless something disturbed them."""
    run = measured(both)
    assert run["plan"]["reference"] == "litert/int8"
    assert run["plan"]["base"] == "onnx/fp32"
    for case in run["cases"]:
        if case["system"] == "litert/int8" and not case["noise"]:
            assert case["ratio"] == pytest.approx(1, abs=0.15)


def test_what_is_written(both: Path) -> None:
    page = (both / "compare.html").read_text(encoding="utf-8")
    text = (both / "compare.md").read_text(encoding="utf-8")
    assert sorted(p.name for p in both.iterdir()) == ["compare.html", "compare.json", "compare.md"]
    for shown in (page, text):
        assert "litert/int8" in shown and "2x9" in shown and "take litert/int8" in shown
    assert not re.search(r"""(src|href)=["']?(?!#)""", page), "nothing is fetched"
    assert "<script" not in page
    assert page.count("<svg") == page.count('role="img"') >= 3


def test_every_figure_of_a_case_is_told(both: Path) -> None:
    """In the text too: a board may have nothing else."""
    run = measured(both)
    text, page = ((both / name).read_text(encoding="utf-8") for name in ("compare.md", "compare.html"))
    for case in run["cases"]:
        assert f"({number(case['p5_ms'])}–{number(case['p95_ms'])})" in text
        for shown in (text, page):
            for name in ("median_ms", "p5_ms", "p95_ms", "tokens_per_s", "ratio"):
                assert number(case[name]) in shown, (case["system"], name)
    for shown in (text, page):
        assert f"{run['load_average']['before'][0]:g}" in shown and "governor" in shown
        assert run["machine"]["cpu"] in shown and run["versions"]["onnxruntime"] in shown
        assert run["command"] in html.unescape(shown)


@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser(peers: Path, width: int, tmp_path: Path) -> None:
    """With rows that failed; nothing sticks out on a phone, and no figure is lost."""
    run, page = measured(peers), browser.needed(peers / "compare.html")
    text = browser.text(browser.dom(page, tmp_path))
    for case in (c for c in run["cases"] if c["median_ms"] is not None):
        assert number(case["median_ms"]) in text and number(case["tokens_per_s"]) in text
    assert "SIGABRT" in text and "wrong: not the same model" in text
    assert browser.inner_width(page, width, tmp_path) == width
    assert browser.cut_off(page, width, tmp_path) == []


def test_a_crash_is_a_row(peers: Path) -> None:
    run = measured(peers)
    by = {(c["system"], c["tokens"]): c for c in run["cases"]}
    assert len(by) == 8
    crashed = by["aborts", 8]
    assert crashed["status"] == "crashed" and "SIGABRT" in crashed["reason"]
    assert by["aborts", 4]["status"] == "measured"
    assert by["onnx/fp32", 8]["status"] == "measured"
    assert crashed["median_ms"] is None and crashed["ratio"] is None
    for name in ("compare.md", "compare.html"):
        assert "SIGABRT" in (peers / name).read_text(encoding="utf-8")


def test_no_memory_is_a_row(peers: Path) -> None:
    run = measured(peers)
    found = [x for x in (*run["openings"], *run["cases"]) if x["system"] == "greedy"]
    assert [x["status"] for x in found] == ["out of memory"] * 3
    assert "allocate" in found[0]["reason"]


def test_a_fast_wrong_peer_is_marked(peers: Path) -> None:
    text = (peers / "compare.md").read_text(encoding="utf-8")
    assert "**wrong is wrong**: not the same model" in text
    assert "| wrong (wrong) |" in text
    assert "take wrong" not in text
    (fast,) = [c for c in measured(peers)["cases"] if (c["system"], c["tokens"]) == ("wrong", 8)]
    assert fast["ratio"] > 1


def test_ctrl_c_and_resume(tiny_bundle: Path, tmp_path: Path) -> None:
    arguments = [
        *COMMAND,
        str(tiny_bundle),
        "--output",
        str(tmp_path / "out"),
        *QUICK,
        "--lengths",
        "4,5,6,7",
    ]
    path = tmp_path / "out" / "compare.json"
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 60
        while time.monotonic() < until and not (path.exists() and len(measured(path.parent)["cases"]) >= 2):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 130
    assert "--resume" in said
    partial = measured(path.parent)
    assert not partial["complete"] and 2 <= len(partial["cases"]) < 4
    assert all(c["status"] == "measured" for c in partial["cases"])
    assert "Interrupted" in (path.parent / "compare.md").read_text(encoding="utf-8")

    other = subprocess.run([*arguments[:-1], "4,5", "--resume"], capture_output=True, text=True)
    assert other.returncode == 2 and "another comparison" in other.stderr
    done = subprocess.run([*arguments, "--resume"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    whole = measured(path.parent)
    assert whole["complete"] and whole["resumed"]
    assert [c["tokens"] for c in whole["cases"]] == [4, 5, 6, 7]
    assert whole["cases"][:2] == partial["cases"][:2]


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the system keeps no schedstat")
def test_a_busy_core_is_seen(tiny_bundle: Path, tmp_path: Path) -> None:
    """A busy loop on the only CPU that the comparison may use: half of its time is gone, and it says so."""
    cpu = {min(os.sched_getaffinity(0))}
    busy = [
        subprocess.Popen(
            [sys.executable, "-c", "while True: pass"], preexec_fn=lambda: os.sched_setaffinity(0, cpu)
        )
        for _ in range(2)
    ]
    try:
        arguments = [str(tiny_bundle), "--output", str(tmp_path / "out"), *QUICK, "--lengths", "64"]
        subprocess.run(
            [*COMMAND, *arguments],
            preexec_fn=lambda: os.sched_setaffinity(0, cpu),
            check=True,
            capture_output=True,
        )
    finally:
        for process in busy:
            process.kill()
            process.wait()
    (case,) = measured(tmp_path / "out")["cases"]
    assert case["waited"] > 0.3 and case["foreign"] > 0.3
    assert any("waited for a CPU" in n for n in case["noise"])
    assert case["attempts"] == 2, "it tried again"
    assert f"{case['median_ms']:.3g}*" in (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")


def test_beside_pytorch(tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments = [*QUICK, "--lengths", "6", "--reference", str(tiny_checkpoint)]
    assert compare.main([str(tiny_bundle), "--output", str(output), *arguments]) == 0
    run = measured(output)
    assert run["plan"]["base"] == "torch fp32" and run["plan"]["reference"] == "onnx/fp32"
    cosines = {o["system"]: o["accuracy"]["minimum"] for o in run["openings"]}
    assert cosines["onnx/fp32"] > 0.99999 and cosines["torch fp32"] == pytest.approx(1)
    (opening,) = [o for o in run["openings"] if o["system"] == "torch fp32"]
    assert "torch" in opening["versions"] and opening["first_s"] is None


def test_pytorch_in_bfloat16(tiny_checkpoint: Path) -> None:
    """As the worker runs it: coarser than fp32, and the same model."""
    ids = token_ids(100, 2, 6)
    spec = {"checkpoint": str(tiny_checkpoint), "threads": 1, "longest": 2048}
    fp32, bf16 = (compare_worker.torch({**spec, "dtype": dtype})()(ids) for dtype in compare_worker.DTYPES)
    assert bf16.dtype == np.float32
    assert 0.99 < min(map(cosine, fp32, bf16)) < 0.999999


def test_a_board_without_extras(tiny_bundle: Path, tmp_path: Path) -> None:
    """numpy and an engine are enough for the measurements and the text; the page says what it lacks."""
    program = (
        "import sys\n"
        "for name in ('onnx', 'jinja2', 'torch', 'transformers', 'sentence_transformers', 'safetensors',"
        " 'huggingface_hub', 'tokenizers', 'tqdm'):\n"
        "    sys.modules[name] = None\n"
        "from embedding_validate.compare.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    arguments = [str(tiny_bundle), "--output", str(tmp_path / "out"), *QUICK, "--lengths", "4"]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "embedding-edge[validate]" in done.stderr
    run = measured(tmp_path / "out")
    assert run["cases"][0]["status"] == "measured"
    assert run["systems"][0]["parts"] is None
    assert not (tmp_path / "out" / "compare.html").exists()
