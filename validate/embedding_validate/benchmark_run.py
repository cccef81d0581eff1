"""Systems side by side: fresh processes, rounds in turn, medians and ratios. Runs no model, prints nothing.

All processes of a round are alive at once, but only the one being measured runs: the others are stopped
(SIGSTOP), so that no idle thread spins. Ratios are taken within a round and their median is reported, because
a machine's speed drifts by more than systems differ.
"""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from embedding_runtime.errors import EmbeddingError

# A block of runs lasts about this long, so that short runs are timed often and long ones not for ever.
BLOCK_SECONDS = 0.4
MOST_RUNS = 25
# More than this share of the threads' time spent waiting for a CPU, and the figure is marked.
INTERFERENCE = 0.05
# After it, memory is read: long enough that every kernel has its buffers.
FIRST_SHAPE = (1, 256)


class BenchmarkError(EmbeddingError):
    """A system could not be started, or ended before it answered."""


@dataclass(frozen=True)
class Shape:
    """Texts in a batch, and tokens in each."""

    batch: int
    tokens: int

    def __str__(self) -> str:
        return str(self.tokens) if self.batch == 1 else f"{self.batch}x{self.tokens}"


@dataclass(frozen=True)
class System:
    """One thing to be measured: `spec` is what its worker is told (with `kind`), `worker` starts it."""

    name: str
    worker: tuple[str, ...]
    spec: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What to measure; the first system is what ratios and cosines are taken to."""

    systems: tuple[System, ...]
    shapes: tuple[Shape, ...]
    threads: tuple[int, ...]
    rounds: int
    vocab_size: int


@dataclass(frozen=True)
class Loading:
    """Opening a system in a fresh process; memory in kB before, after, and after a first run of 256 tokens.

    `cold_s` is the opening before that one; for the first number of threads it is the first with an empty
    user cache: hashes, and whatever is prepared once.
    """

    system: str
    threads: int
    cold_s: float
    load_s: float
    first_run_ms: float
    memory_before: dict[str, int]
    memory_loaded: dict[str, int]
    memory_run: dict[str, int]
    versions: dict[str, str]


@dataclass(frozen=True)
class Timing:
    """One system at one shape: milliseconds, and how it compares with the first system.

    `ratio` is the first system's time over this one's, the median over rounds; `waited` the share of the
    threads' time spent waiting for a CPU; `cosine` the smallest over the batch to the first system's vectors.
    """

    system: str
    threads: int
    shape: str
    runs: int
    median_ms: float
    p5_ms: float
    p95_ms: float
    ratio: float
    waited: float
    interference: bool
    cosine: float


def measure(plan: Plan, progress: Callable[[str], None]) -> tuple[list[Loading], list[Timing]]:
    """Measure every system at every shape and number of threads.

    Raises:
        BenchmarkError: a system does not start, or fails.
    """
    loadings: list[Loading] = []
    timings: list[Timing] = []
    for threads in plan.threads:
        with ExitStack() as running:
            workers = {}
            for system in plan.systems:
                progress(f"{system.name}, {threads} threads: loading")
                with _worker(system, threads, plan.vocab_size) as first:
                    cold = first.opened["load_s"]
                worker = running.enter_context(_worker(system, threads, plan.vocab_size))
                loadings.append(_loading(worker, system.name, threads, cold))
                workers[system.name] = worker
            for shape in plan.shapes:
                progress(f"{shape} tokens, {threads} threads")
                timings += _shape(workers, shape, threads, plan.rounds)
    return loadings, timings


def _loading(worker: "_Worker", name: str, threads: int, cold: float) -> Loading:
    """What opening and a first run have cost a process that has only just begun."""
    found = worker.run(Shape(*FIRST_SHAPE), 1, vectors=False)
    worker.stop()
    return Loading(
        system=name,
        threads=threads,
        cold_s=cold,
        load_s=worker.opened["load_s"],
        first_run_ms=1e3 * found["seconds"][0],
        memory_before=worker.opened["memory_before"],
        memory_loaded=worker.opened["memory"],
        memory_run=found["memory"],
        versions=worker.opened["versions"],
    )


def _shape(workers: Mapping[str, "_Worker"], shape: Shape, threads: int, rounds: int) -> list[Timing]:
    """Rounds of blocks, one block of each system after the other."""
    runs, vectors = {}, {}
    for name, worker in workers.items():
        with worker.awake():
            warm = worker.run(shape, 2, vectors=True)
        runs[name] = max(1, min(MOST_RUNS, round(BLOCK_SECONDS / warm["seconds"][-1])))
        vectors[name] = np.array(warm["vectors"])
    blocks: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            with worker.awake():
                blocks[name].append(worker.run(shape, runs[name], vectors=False))
    first = next(iter(workers))
    return [
        _timing(name, threads, shape, blocks[name], blocks[first], cosine(vectors[name], vectors[first]))
        for name in workers
    ]


def _timing(
    name: str,
    threads: int,
    shape: Shape,
    blocks: Sequence[dict[str, Any]],
    first: Sequence[dict[str, Any]],
    similarity: float,
) -> Timing:
    seconds = np.array([s for block in blocks for s in block["seconds"]])
    p5, p50, p95 = (1e3 * float(np.percentile(seconds, p)) for p in (5, 50, 95))
    pairs = zip(first, blocks, strict=True)
    waited = sum(block["waited_s"] for block in blocks) / (threads * float(seconds.sum()))
    return Timing(
        system=name,
        threads=threads,
        shape=str(shape),
        runs=len(seconds),
        median_ms=p50,
        p5_ms=p5,
        p95_ms=p95,
        ratio=median(median(a["seconds"]) / median(b["seconds"]) for a, b in pairs),
        waited=waited,
        interference=waited > INTERFERENCE,
        cosine=similarity,
    )


def cosine(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """Smallest cosine of rows of (B, D) and (B, D)."""
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return float(np.min(np.sum(a * b, axis=-1) / lengths))


class _Worker:
    """A running `benchmark_worker`; `opened` is its first answer."""

    def __init__(self, system: System, process: "subprocess.Popen[str]") -> None:
        self._system, self._process = system, process
        self.opened = self._answer()

    def run(self, shape: Shape, runs: int, *, vectors: bool) -> dict[str, Any]:
        assert self._process.stdin
        request = {"batch": shape.batch, "tokens": shape.tokens, "runs": runs, "vectors": vectors}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    @contextmanager
    def awake(self) -> Iterator[None]:
        self._process.send_signal(signal.SIGCONT)
        yield
        self.stop()

    def stop(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise BenchmarkError(
                f"{self._system.name} ended with status {self._process.wait()} before it answered; "
                "what it said is above. Leave it out, or mend its environment."
            )
        found: dict[str, Any] = json.loads(line)
        return found


@contextmanager
def _worker(system: System, threads: int, vocab_size: int) -> Iterator[_Worker]:
    """A fresh process that has opened its system; it ends with the block."""
    spec = {**system.spec, "threads": threads, "vocab_size": vocab_size}
    environment = {**os.environ, **system.environment, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(
        [*system.worker, json.dumps(spec)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        yield _Worker(system, process)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()
