"""One system in a process of its own: starts, runs, stops and watches it, and explains how it ended.

It speaks the protocol of `measure.protocol`.
"""

import json
import os
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_validate.compare.document.shapes import Shape
from embedding_validate.compare.measure.machine_state import clock, foreign

NO_ANSWER = "did not answer"

_WATCH_SECONDS = 0.004
_MEMORY_WORDS = ("MemoryError", "bad_alloc", "out of memory", "Cannot allocate memory", "Failed to allocate")
_MOST_CHARACTERS = 400
_ERROR = re.compile(r"^[\w.]*(Error|Exception|Interrupt|Exit)\b.*:|ASSERT|[Aa]ssertion")


class Ended(Exception):
    """A system's process ended before it answered.

    `status`: "crashed", "out of memory", "refused", or "did not answer" where it was ended for that.
    """

    def __init__(self, system: str, status: str, reason: str) -> None:
        super().__init__(reason)
        self.system, self.status, self.reason = system, status, reason


@dataclass(frozen=True)
class System:
    """One system to measure: its worker gets `spec` (with `kind`), and `worker` is the command that starts
    it."""

    name: str
    worker: tuple[str, ...]
    spec: Mapping[str, Any]


@dataclass(frozen=True)
class Start:
    """How a system is started: threads, environment, and the seconds it is given to open, and for any other
    answer."""

    threads: int
    vocab_size: int
    environment: Mapping[str, str]
    limit: float


@dataclass(frozen=True)
class Block:
    """Some runs of one shape: seconds of each; of waiting for a CPU, and of CPU time that others used.

    `memory` has kB: the worker's own reading, and under `PeakAnon` and `PeakFile` the most that a watch saw.
    """

    seconds: list[float]
    waited_s: float
    foreign_s: float
    memory: dict[str, int]


class Process:
    """A running worker; `opened` is its first answer, `command` what started it, `latest` the seconds of its
    latest run of each shape."""

    def __init__(self, system: System, start: Start) -> None:
        """Start it and wait until its system is open.

        Raises:
            Ended: the process ended first.
        """
        spec = {**system.spec, "threads": start.threads, "vocab_size": start.vocab_size}
        self.system, self._limit, self._late = system.name, start.limit, False
        self.latest: dict[Shape, float] = {}
        self.command = [*system.worker, json.dumps(spec)]
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            # Not in the group that Ctrl-C interrupts; one left behind and stopped is ended by the system.
            process_group=0,
            env={**os.environ, **start.environment, "OMP_NUM_THREADS": str(start.threads)},
        )
        try:
            self.opened = self._answer()
        except BaseException:
            self.close()
            raise

    def run(self, shape: Shape, runs: int, *, watch: bool = False) -> Block:
        """Run a shape; `watch` reads the process's memory in the meantime, which costs a little time.

        Raises:
            Ended: it ended meanwhile.
        """
        request = {"batch": shape.batch, "tokens": shape.tokens, "runs": runs}
        before = clock(self._process.pid)
        with _watched(self._process.pid, watch) as peaks:
            self._send(request)
            answer = self._answer()
        self.latest[shape] = answer["seconds"][-1]
        return Block(
            seconds=answer["seconds"],
            waited_s=answer["waited_s"],
            foreign_s=foreign(before, clock(self._process.pid)),
            memory={**answer["memory"], **peaks},
        )

    def vectors(self, texts: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        """The vector (D,) of each text, alone, from its token ids.

        Raises:
            Ended: it ended meanwhile.
        """
        self._send({"ids": [list(ids) for ids in texts]})
        return [np.array(vector, np.float32) for vector in self._answer()["vectors"]]

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def stop(self) -> None:
        """Pause the process until `awake`."""
        self._process.send_signal(signal.SIGSTOP)

    @contextmanager
    def awake(self) -> Iterator["Process"]:
        """Let the process run within the block."""
        self._process.send_signal(signal.SIGCONT)
        try:
            yield self
        finally:
            self.stop()

    def close(self) -> None:
        """End the process and its children."""
        self._kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe:
                pipe.close()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, request: Mapping[str, Any]) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError as e:  # it has just ended
            raise self._end() from e

    def _answer(self) -> dict[str, Any]:
        """The process's next line; if it takes too long, the process is ended."""
        assert self._process.stdout
        timer = threading.Timer(self._limit, self._give_up)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            raise self._end()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _give_up(self) -> None:
        self._late = True
        self._kill()

    def _kill(self) -> None:
        with suppress(ProcessLookupError, PermissionError):  # nothing is left of its group
            os.killpg(self._process.pid, signal.SIGKILL)

    def _end(self) -> Ended:
        status = self._process.wait()
        if self._late:
            return Ended(self.system, NO_ANSWER, f"within {self._limit:g} s")
        self._errors.seek(0)
        return Ended(self.system, *explained(status, self._errors.read()))


def explained(status: int, errors: str) -> tuple[str, str]:
    """Status and reason of how a process ended, from its exit status (negative: a signal) and its stderr."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    last = _last_error(lines)[:_MOST_CHARACTERS]
    if any(word in errors for word in _MEMORY_WORDS):
        return ("out of memory", last)
    if status == -signal.SIGKILL:
        return ("out of memory", "killed by the system, most likely for using too much memory")
    if status < 0:
        return ("crashed", f"{signal.Signals(-status).name}; {last}")
    kind, _, message = last.partition(": ")
    if kind.startswith("embedding_") and message:
        return ("refused", message)
    return ("crashed", f"exit status {status}; {last}")


def _last_error(lines: list[str]) -> str:
    """The last line that reports an error; if a child process failed, the child's."""
    errors = [line for line in lines if _ERROR.search(line) and "CalledProcessError" not in line]
    return (errors or lines or ["it said nothing"])[-1]


@contextmanager
def _watched(pid: int, enabled: bool) -> Iterator[dict[str, int]]:
    """The peak memory of a process during the block, anonymous and file-backed, in kB."""
    peaks: dict[str, int] = {}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_WATCH_SECONDS):
            for kind, kilobytes in _resident(pid).items():
                peaks[kind] = max(peaks.get(kind, 0), kilobytes)

    thread = threading.Thread(target=watch)
    if enabled:
        thread.start()
    try:
        yield peaks
    finally:
        done.set()
        if enabled:
            thread.join()


def _resident(pid: int) -> dict[str, int]:
    names = {"RssAnon:": "PeakAnon", "RssFile:": "PeakFile"}
    try:
        lines = [line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    except OSError:
        return {}
    return {names[words[0]]: int(words[1]) for words in lines if words and words[0] in names}
