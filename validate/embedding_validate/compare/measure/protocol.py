"""The process in which one system is measured: it opens one system, runs it on request, and times it.

`measure.process` starts it with a JSON object as its only argument; requests come as JSON lines on stdin and
are answered on stdout, one line each. Besides the system that it runs it needs only numpy, so that `serve`
can run peers in environments of their own. The caller decides on shapes and rounds.
"""

import json
import os
import re
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Run = Callable[[Ids], NDArray[np.float32]]
"""Token ids (B, S), none of them padding, to vectors (B, D)."""
Open = Callable[[dict[str, Any]], Callable[[], Run]]
"""Imports what a system needs; the function it returns opens the system, and is what loading costs."""

_STATUS = ("RssAnon", "RssFile", "VmHWM")
_ENGINES = ("onnxruntime", "ai-edge-litert", "openvino", "nncf", "fastembed", "llama-cpp-python")
_MODULES = {"llama-cpp-python": "llama_cpp"}
_PACKAGES = ("numpy", "torch", "transformers", "sentence-transformers", *_ENGINES)
# Ids below are control tokens.
_FIRST_ID = 5


def serve(systems: dict[str, Open]) -> int:
    """Measure the system that the argument's `kind` names until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    spec = json.loads(sys.argv[1])

    def answer(fields: dict[str, Any]) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    load = systems[spec["kind"]](spec)
    before = memory()
    started = time.perf_counter()
    run = load()
    loaded = {"load_s": time.perf_counter() - started, "memory_before": before, "memory": memory()}
    answer(loaded | {"versions": versions()})
    for line in sys.stdin:
        request = json.loads(line)
        if "ids" in request:
            answer({"vectors": [_vector(run, ids) for ids in request["ids"]]})
        else:
            answer(measure(run, token_ids(spec["vocab_size"], request["batch"], request["tokens"]), request))
    return 0


def _vector(run: Run, ids: list[int]) -> list[float]:
    """The vector of one text's ids."""
    vector: list[float] = np.asarray(run(np.array([ids], np.int64))[0], np.float32).tolist()
    return vector


def measure(run: Run, ids: Ids, request: dict[str, Any]) -> dict[str, Any]:
    """Run `request["runs"]` times: seconds of each, seconds of waiting for a CPU, memory."""
    seconds, waited = [], waiting()
    for _ in range(request["runs"]):
        started = time.perf_counter()
        run(ids)
        seconds.append(time.perf_counter() - started)
    return {
        "seconds": seconds,
        "waited_s": waiting() - waited,
        "memory": memory(),
    }


def token_ids(vocab_size: int, batch: int, tokens: int) -> Ids:
    """The same seeded ids in every process, int64 (B, S), control tokens left out."""
    rng = np.random.default_rng([batch, tokens])
    return rng.integers(_FIRST_ID, vocab_size, (batch, tokens), dtype=np.int64)


def memory() -> dict[str, int]:
    """kB of this process by kind: anonymous, file-backed, and the most that was resident at once."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return {}
    return {name: int(kb) for name, kb in re.findall(r"^(\w+):\s+(\d+) kB", text, re.M) if name in _STATUS}


def versions() -> dict[str, str]:
    """Versions of the imported packages that affect speed."""
    return {
        name: version(name) for name in _PACKAGES if _MODULES.get(name, name.replace("-", "_")) in sys.modules
    }


def waiting() -> float:
    """Seconds that this process's threads were ready but had no CPU, plus what a hypervisor took from all.

    Second field of schedstat (Linux Documentation/scheduler/sched-stats), `steal` of /proc/stat.
    """
    waited = 0.0
    try:
        for task in Path("/proc/self/task").iterdir():
            waited += int((task / "schedstat").read_text().split()[1]) / 1e9
        stolen = int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8])
    except (OSError, IndexError, ValueError):  # a thread has just ended, or this is not Linux
        return waited
    return waited + stolen / os.sysconf("SC_CLK_TCK")
