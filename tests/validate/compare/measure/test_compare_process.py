"""Systems in processes of their own that sleep, hang or leave children; and a comparison among them."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from embedding_validate.compare import cli as compare
from embedding_validate.compare.document.shapes import Shape
from embedding_validate.compare.measure.process import NO_ANSWER, Ended, Process, Start, System

# A peer whose speed is known (20 ms for each text), one that hangs on texts of 8 tokens in a child,
# one that hangs while it opens, and one whose vectors hold no numbers.
PEERS = """
import os, subprocess, sys, time
import numpy as np
from embedding_validate.compare.measure.protocol import serve

def slow(spec):
    def run(ids):
        time.sleep(0.02 * len(ids))
        return np.ones((len(ids), 64), np.float32)
    return lambda: run

def hangs(spec):
    def run(ids):
        if ids.shape[1] == 8:
            subprocess.run([sys.executable, "-c", "import time; time.sleep(600)  # " + os.environ["MARK"]])
        return np.ones((len(ids), 64), np.float32)
    return lambda: run

def never_opens(spec):
    return lambda: time.sleep(600)

def nothing(spec):
    return lambda: lambda ids: np.full((len(ids), 64), np.nan, np.float32)

sys.exit(serve({"slow": slow, "hangs": hangs, "never-opens": never_opens, "nothing": nothing}))
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("peers") / "peers.py"
    path.write_text(PEERS)
    return path


# Seconds; more than a slow machine needs for anything that does answer.
LIMIT = 8


def start(script: Path, kind: str, limit: float, mark: str = "") -> Process:
    system = System(kind, (sys.executable, str(script)), {"kind": kind})
    return Process(system, Start(1, 100, {"MARK": mark}, limit))


def running(mark: str) -> list[str]:
    """Processes whose command holds a word."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:  # it has just ended
            continue
        if mark.encode() in command:
            found.append(path.parent.name)
    return found


def test_a_known_speed(script: Path) -> None:
    with start(script, "slow", 60) as process:
        block = process.run(Shape(2, 6), 3)
        vectors = process.vectors([[2, 9, 1], [2, 1]])
    assert len(block.seconds) == 3 and all(0.04 <= s < 0.5 for s in block.seconds)
    assert [v.tolist() for v in vectors] == [[1.0] * 64] * 2


def test_an_opening_that_hangs(script: Path) -> None:
    began = time.monotonic()
    with pytest.raises(Ended) as ended:
        start(script, "never-opens", 2)
    assert (ended.value.status, ended.value.reason) == (NO_ANSWER, "within 2 s")
    assert time.monotonic() - began < 30


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
def test_a_hang_ends_with_all_that_it_has_started(script: Path) -> None:
    mark = f"child-of-{os.getpid()}-{time.monotonic_ns()}"
    with start(script, "hangs", 5, mark) as process:
        assert process.run(Shape(1, 4), 1).seconds
        with pytest.raises(Ended, match="within 5 s"):
            process.run(Shape(1, 8), 1)
        assert process.ended
    until = time.monotonic() + 10
    while running(mark) and time.monotonic() < until:
        time.sleep(0.05)
    assert not running(mark)


def test_a_stopped_process_is_ended_too(script: Path) -> None:
    with start(script, "slow", 2) as process:
        process.stop()
        with pytest.raises(Ended, match="within 2 s"):
            process.run(Shape(1, 4), 1)


@pytest.fixture(scope="module")
def compared(tiny_bundle: Path, script: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results' folder of a bundle among peers that hang."""
    output = tmp_path_factory.mktemp("hanging") / "out"
    peers = [f"--peer={n}={sys.executable}={script}" for n in ("slow", "hangs", "never-opens", "nothing")]
    quick = [
        "--threads",
        "1",
        "--seconds",
        "0.05",
        "--rounds",
        "3",
        "--lengths",
        "4,8,16",
        "--limit",
        str(LIMIT),
    ]
    began = time.monotonic()
    # Longer for the openings, in which peers convert; one hung peer costs a limit, not one for every case.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("embedding_validate.compare.measure.run._CONVERTING", 1)
        patch.setenv("MARK", "")
        status = compare.main([str(tiny_bundle), "--output", str(output), *quick, *peers])
    assert status == 0, "peers that hang are rows, not failures"
    assert time.monotonic() - began < 100
    return output


def rows(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    (run,) = json.loads((folder / "compare.json").read_text(encoding="utf-8"))["runs"]
    assert run["complete"] and run["plan"]["limit"] == LIMIT
    return {(c["system"], c["tokens"]): c for c in run["cases"]}


def test_a_hang_is_a_row(compared: Path) -> None:
    by = rows(compared)
    assert len(by) == 15
    assert by["hangs", 4]["status"] == "measured"
    assert (by["hangs", 8]["status"], by["hangs", 8]["reason"]) == (NO_ANSWER, f"within {LIMIT} s")
    assert (by["hangs", 16]["status"], by["hangs", 16]["reason"]) == (NO_ANSWER, "not asked again")
    assert [by["never-opens", n]["reason"] for n in (4, 8, 16)] == ["not asked again"] * 3
    assert all(by["onnx/fp32", n]["status"] == "measured" for n in (4, 8, 16)), "the run goes on"


def test_a_hang_is_told(compared: Path) -> None:
    text = (compared / "compare.md").read_text(encoding="utf-8")
    assert f"- hangs: did not answer (within {LIMIT} s): 8 tokens on 1 threads" in text
    assert f"- never-opens: did not answer (within {LIMIT} s): opening on 1 threads" in text
    assert f"ended where there is no answer within {LIMIT} s" in text
    page = (compared / "compare.html").read_text(encoding="utf-8")
    assert f"hangs</strong>: did not answer (within {LIMIT} s)" in page


def test_a_known_ratio(compared: Path) -> None:
    """Of the peer that sleeps 20 ms, from the samples of both in turn."""
    by = rows(compared)
    slow, ours = by["slow", 8], by["onnx/fp32", 8]
    assert 20 <= slow["p5_ms"] <= slow["median_ms"] < 60
    if not slow["noise"] and not ours["noise"]:
        assert slow["ratio"] == pytest.approx(ours["median_ms"] / slow["median_ms"], rel=0.5)


def test_vectors_without_numbers_are_wrong(compared: Path) -> None:
    assert rows(compared)["nothing", 8]["status"] == "measured"
    assert "**nothing is wrong**" in (compared / "compare.md").read_text(encoding="utf-8")
