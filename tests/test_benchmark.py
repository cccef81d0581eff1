"""The benchmark on a tiny bundle: fresh processes, ratios, marks, peers, and what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedding_validate import benchmark
from embedding_validate.benchmark_run import cosine
from embedding_validate.benchmark_worker import token_ids

# A peer whose speed is known: 20 ms for each text, its vectors those of nobody.
PEER = """
import sys, time
import numpy as np
from embedding_validate.benchmark_worker import serve

def slow(spec):
    assert spec["threads"] == 1 and spec["checkpoint"] is None
    def run(ids):
        time.sleep(0.02 * len(ids))
        return np.random.default_rng(0).standard_normal((len(ids), 64))
    return lambda: run

def broken(spec):
    raise SystemExit("no such engine")

sys.exit(serve({"slow": slow, "broken": broken}))
"""


def run(bundle: Path, output: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    common = ["--threads", "1", "--shapes", "4,2x6", "--rounds", "2", "--output", str(output)]
    status = benchmark.main([str(bundle), *common, *arguments])
    return status, json.loads(output.read_text()) if output.exists() else {}


@pytest.fixture
def peer(tmp_path: Path) -> str:
    script = tmp_path / "peer.py"
    script.write_text(PEER)
    return f"{sys.executable}={script}"


def test_beside_pytorch(
    tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found = run(tiny_bundle, tmp_path / "b.json", "--reference", str(tiny_checkpoint))
    shown = capsys.readouterr().err
    assert status == 0
    assert {(t["system"], t["shape"]) for t in found["timings"]} == {
        (system, shape) for system in ("torch fp32", "onnx/fp32") for shape in ("4", "2x6")
    }
    for timing in found["timings"]:
        assert timing["cosine"] > 0.99999
        assert 0 < timing["p5_ms"] <= timing["median_ms"] <= timing["p95_ms"]
        assert timing["runs"] >= 2
        assert timing["interference"] == (timing["waited"] > 0.05)
        assert timing["ratio"] == 1 or timing["system"] == "onnx/fp32"
    torch, ours = found["loadings"]
    assert "torch" in torch["versions"] and "torch" not in ours["versions"]
    assert "onnxruntime" in ours["versions"]
    for loading in (torch, ours):
        assert loading["load_s"] > 0 and loading["cold_s"] > 0 and loading["first_run_ms"] > 0
        if sys.platform == "linux":
            assert loading["memory_run"]["RssAnon"] > loading["memory_before"]["RssAnon"] > 0
    assert found["files"]["onnx/fp32"] > 1e6
    assert len(found["load_average"]["before"]) == 3
    for text in ("torch fp32", "onnx/fp32", "2x6", "anon MB", "MB on disk"):
        assert text in shown


def test_ratios_and_strangers(tiny_bundle: Path, tmp_path: Path, peer: str) -> None:
    """A peer that sleeps is timed by its sleep; vectors of another model are an error."""
    status, found = run(tiny_bundle, tmp_path / "b.json", "--peer", f"slow={peer}")
    assert status == 1
    by = {(t["system"], t["shape"]): t for t in found["timings"]}
    for shape, texts in (("4", 1), ("2x6", 2)):
        slow, ours = by["slow", shape], by["onnx/fp32", shape]
        assert 20 * texts <= slow["p5_ms"] <= slow["median_ms"] < 60 * texts
        assert slow["ratio"] == pytest.approx(ours["median_ms"] / slow["median_ms"], rel=0.9)
        assert abs(slow["cosine"]) < 0.5
        assert ours["cosine"] == pytest.approx(1)


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the system keeps no schedstat")
def test_waiting_for_a_cpu_is_seen() -> None:
    """Two busy processes on one CPU wait half of the time; one alone does not."""
    code = (
        "import os, sys, time; os.sched_setaffinity(0, {int(sys.argv[1])})\n"
        "from embedding_validate.benchmark_worker import waiting\n"
        "before, end = waiting(), time.perf_counter() + 0.6\n"
        "while time.perf_counter() < end: pass\n"
        "print(waiting() - before)"
    )
    cpu = str(min(os.sched_getaffinity(0)))
    running = [
        subprocess.Popen([sys.executable, "-c", code, cpu], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    waited = [float(process.communicate()[0]) for process in running]
    assert max(waited) > 0.1


def test_ids_are_the_same_everywhere() -> None:
    first = token_ids(100, 2, 6)
    np.testing.assert_array_equal(first, token_ids(100, 2, 6))
    assert first.shape == (2, 6) and first.dtype == np.int64
    assert 5 <= first.min() <= first.max() < 100


def test_the_smallest_cosine_counts() -> None:
    a = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert cosine(a, np.array([[2.0, 0.0], [0.0, 3.0]])) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "int3"], "no onnx graph in 'int3'"),
        (["--shapes", "0"], "whole numbers"),
        (["--shapes", "1x2x3"], "TOKENS or BATCHxTOKENS"),
        (["--shapes", "4096"], "2048 at most"),
        (["--threads", "two"], "whole numbers"),
        (["--peer", "openvino"], "NAME=PYTHON=SCRIPT"),
    ],
)
def test_bad_arguments(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(tiny_bundle, tmp_path / "b.json", *arguments)[0] == 2
    assert message in capsys.readouterr().err


def test_a_system_that_does_not_start(
    tiny_bundle: Path, tmp_path: Path, peer: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny_bundle, tmp_path / "b.json", "--peer", f"broken={peer}")[0] == 2
    shown = capfd.readouterr().err
    assert "no such engine" in shown
    assert "broken ended with status 1" in shown
