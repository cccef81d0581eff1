"""Faults against running services for as long as one likes, while other clients want their right vectors.

python tests/support/processes/soak.py BUNDLE SECONDS

Two services: one of two workers, of which one is killed now and then, and one of one process, whose memory,
files and threads are counted before and after.
"""

import base64
import json
import os
import random
import re
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from load import mixed_texts
from service import Running, serving, workers

from embedding_runtime import Embedder
from embedding_runtime.machine.process_memory import process_memory

MAX_BODY, MAX_TEXTS, TIMEOUT = 1_000_000, 500, 6
LIMITS = ("--max-body", MAX_BODY, "--max-texts", MAX_TEXTS, "--timeout", TIMEOUT, "--max-queue", 4000)
KILL_EVERY = 8.0
# What services say: of a worker, and, in Uvicorn's words, of what is no HTTP.
_EXPECTED = re.compile(r"starting another|Invalid HTTP request received")
_HEAD = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
# What is sent, and the statuses that answer it.
MALFORMED: dict[str, tuple[bytes, set[int]]] = {
    "no JSON": (_HEAD + b"Content-Length: 4\r\n\r\n{'a'", {400}),
    "not UTF-8": (_HEAD + b"Content-Length: 13\r\n\r\n" + b'{"input":"\xff"}', {400}),
    "deep": (_HEAD + b"Content-Length: 100000\r\n\r\n" + b"[" * 100_000, {400}),
    "no type": (b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", {415}),
    "packed": (_HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", {415}),
    "a field": (_HEAD + b'Content-Length: 22\r\n\r\n{"input":"a","dim":64}', {400}),
    "another model": (_HEAD + b'Content-Length: 25\r\n\r\n{"input":"a","model":"x"}', {404}),
    "a method": (b"PUT /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", {405}),
    "a path": (b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n", {404}),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n", {400}),
    "a bad length": (_HEAD + b"Content-Length: many\r\n\r\n{}", {400}),
}


@dataclass
class Seen:
    """What clients were answered, and what was wrong with it."""

    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def expect(self, what: str, found: object, right: bool) -> None:
        """Count an answer."""
        self.answers[f"{what}: {found}"] += 1
        if not right:
            self.wrong.append(f"{what}: {found}")


@dataclass(frozen=True)
class Held:
    """What a process holds: bytes of its own, open files, threads."""

    anonymous: int
    files: int
    threads: int


def held(pid: int) -> Held:
    """What a process holds now (Linux)."""
    memory = process_memory(pid)
    assert memory is not None
    return Held(memory.anonymous, *(len(list(Path("/proc", str(pid), n).iterdir())) for n in ("fd", "task")))


class Client:
    """The faults, and the right requests, of clients of one service."""

    def __init__(self, service: Running, texts: list[str], alone: Any, seen: Seen, killed: bool) -> None:
        """`alone` are the vectors (N, dim) of `texts`; where workers are `killed`, connections may break."""
        self._service, self._texts, self._alone = service, texts, alone
        self._seen, self._killed = seen, killed
        host, port = service.url.removeprefix("http://").split(":")
        self._address = (host, int(port))

    def right(self, chance: random.Random) -> None:
        """Texts of mixed length: none lost, none with another vector; a broken connection is tried again."""
        chosen = chance.sample(range(len(self._texts)), chance.choice((1, 1, 1, 4, 30)))
        body = {"input": [self._texts[i] for i in chosen], "encoding_format": "base64"}
        started = time.monotonic()
        while True:
            try:
                answer = httpx.post(f"{self._service.url}/v1/embeddings", json=body, timeout=60)
            except httpx.TransportError as e:
                self._seen.expect("broken by a killed worker", type(e).__name__, self._killed)
                continue
            if answer.status_code != 503:
                break
            time.sleep(0.2)
        self._seen.seconds.append(time.monotonic() - started)
        rows = answer.json().get("data", [])
        vectors = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in rows]
        right = answer.status_code == 200 and np.array_equal(vectors, self._alone[chosen])
        self._seen.expect("right", answer.status_code, right)

    def malformed(self, chance: random.Random) -> None:
        """One of the requests that are none."""
        name = chance.choice(sorted(MALFORMED))
        data, statuses = MALFORMED[name]
        self._sent(f"malformed, {name}", data, statuses)

    def oversized(self, chance: random.Random) -> None:
        """More bytes than are taken, said before or not; more texts."""
        kind = chance.choice(("declared", "chunked", "texts"))
        if kind == "texts":
            body = json.dumps({"input": ["a"] * (MAX_TEXTS + 1)}).encode()
        else:
            body = b'{"input": "' + b"a" * (2 * MAX_BODY) + b'"}'
        if kind == "chunked":
            data = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        else:
            data = b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        self._sent(f"oversized, {kind}", _HEAD + data, {413})

    def hangs_up(self, chance: random.Random) -> None:
        """In its head, in its body, or as its texts are embedded."""
        body = json.dumps({"input": self._texts[: MAX_TEXTS // 2]}).encode()
        data = _HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        with suppress(OSError), socket.create_connection(self._address, timeout=30) as connection:
            connection.sendall(data[: chance.choice((20, len(_HEAD) + 60, len(data)))])
            time.sleep(chance.random() * 0.3)
        self._seen.answers["hung up"] += 1

    def sends_slowly(self, _: random.Random) -> None:
        """A body that does not come."""
        self._sent("slow sender", _HEAD + b'Content-Length: 1000\r\n\r\n{"input', {408})

    def reads_slowly(self, _: random.Random) -> None:
        """An answer of megabytes that nobody takes is cut off: not all of it comes."""
        body = json.dumps({"input": ["a"] * MAX_TEXTS}).encode()
        with suppress(ConnectionError), socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(60)
            connection.connect(self._address)
            connection.sendall(_HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
            until = time.monotonic() + 2 * TIMEOUT
            while time.monotonic() < until and connection.recv(500):
                time.sleep(0.1)
        self._seen.answers["read slowly"] += 1

    def _sent(self, what: str, data: bytes, statuses: set[int]) -> None:
        """Send bytes, and compare the status with those expected."""
        found: object = "nothing"
        try:
            with socket.create_connection(self._address, timeout=60) as connection:
                connection.sendall(data)
                line = connection.recv(12)
                found = int(line[9:]) if len(line) == 12 else line
        except OSError as e:
            found = type(e).__name__
        broken = self._killed and not isinstance(found, int)
        self._seen.expect(what, found, broken or found in statuses)


def soak(bundle: Path, seconds: float) -> dict[str, Any]:
    """What was answered and held; `wrong` is empty where all was right.

    The engine keeps what its largest batches took, and chance makes those seldom: five of every text, more
    than come together later, are asked for first. Then the first fifth of the time is for the rest of memory
    to find its size.
    """
    texts = mixed_texts(300)
    with Embedder(bundle, threads=1) as embedder:
        alone = np.stack([embedder.encode(text) for text in texts])
    seen, stop = Seen(), threading.Event()
    with serving(bundle, *LIMITS) as steady, serving(bundle, *LIMITS, "--workers", 2) as killed:
        for start in range(0, len(texts), 60):
            assert steady.post(input=texts[start : start + 60] * 5).status_code == 200
        clients = [Client(steady, texts, alone, seen, False), Client(killed, texts, alone, seen, True)]
        before = _in_turns(clients, seen, stop, killed, seconds / 5, steady)
        after = _in_turns(clients, seen, stop, killed, seconds * 4 / 5, steady)
        deaths = sum("starting another" in line for line in killed.lines)
        said = [line.strip() for service in (steady, killed) for line in service.lines[1:]]
    p50, p99 = np.percentile(seen.seconds, [50, 99])
    return {
        "answers": dict(sorted(seen.answers.items())),
        "wrong": seen.wrong,
        "killed workers": deaths,
        "unexpected lines": [line for line in said if not _EXPECTED.search(line)],
        "p50 and p99, s": [round(float(p50), 3), round(float(p99), 3)],
        "before": vars(before),
        "after": vars(after),
    }


def _in_turns(
    clients: list[Client], seen: Seen, stop: threading.Event, killed: Running, seconds: float, steady: Running
) -> Held:
    """Run all kinds of clients side by side; what the steady service holds when all is done."""
    stop.clear()
    kinds: list[Callable[[Client, random.Random], None]] = [
        *[Client.right] * 3,
        Client.malformed,
        Client.oversized,
        Client.hangs_up,
        Client.sends_slowly,
        Client.reads_slowly,
    ]

    def work(client: Client, kind: Callable[[Client, random.Random], None], number: int) -> None:
        chance = random.Random(number)
        while not stop.is_set():
            try:
                kind(client, chance)
            except Exception as e:
                seen.wrong.append(f"{kind.__name__}: {e!r}")
            time.sleep(chance.random() * 0.1)

    threads = [
        threading.Thread(target=work, args=(client, kind, number))
        for client in clients
        for number, kind in enumerate(kinds)
    ]
    for thread in threads:
        thread.start()
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, KILL_EVERY))
        with suppress(ProcessLookupError):
            os.kill(random.choice(sorted(workers(killed.process.pid))), signal.SIGKILL)
    stop.set()
    for thread in threads:
        thread.join()
    for service in (steady, killed):
        service.until("embedding_unanswered_texts", 0)
    time.sleep(2)
    return held(steady.process.pid)


if __name__ == "__main__":
    found = soak(Path(sys.argv[1]), float(sys.argv[2]))
    print(json.dumps(found, indent=2))
    sys.exit(bool(found["wrong"] or found["unexpected lines"]))
