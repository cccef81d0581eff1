"""`embed-text serve` as tests start it, and what they send to it."""

import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from text_command import COMMAND


@dataclass
class Running:
    """A service: its address (without /v1), its process, and lines it has written."""

    url: str
    process: "subprocess.Popen[str]"
    lines: list[str]

    def post(self, **body: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/embeddings", json=body, timeout=60)

    def metric(self, name: str) -> float:
        """A figure of /metrics, 0 where there is none yet."""
        found = re.search(rf"^{re.escape(name)} (\S+)$", httpx.get(f"{self.url}/metrics").text, re.M)
        return float(found[1]) if found else 0.0

    def until(self, name: str, value: float, seconds: float = 30) -> None:
        """Wait until a figure has a value."""
        deadline = time.monotonic() + seconds
        while (found := self.metric(name)) != value:
            assert time.monotonic() < deadline, f"{name} is {found}, not {value}"
            time.sleep(0.05)


@contextmanager
def serving(
    bundle: Path, *options: object, under: tuple[str, ...] = (), **environment: str
) -> Iterator[Running]:
    """A service of its own process on a free port, `under` a command that becomes it; ended by SIGTERM."""
    command = [*under, *COMMAND, "serve", str(bundle), "--port", "0", "--threads", "1", *map(str, options)]
    kept = {k: v for k, v in os.environ.items() if k != "EMBED_TEXT_TOKEN"}
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**kept, "PYTHONWARNINGS": "ignore", **environment}
    )
    lines: list[str] = []
    try:
        assert process.stderr
        for line in process.stderr:
            lines.append(line.rstrip())
            if found := re.search(r"serving (http://\S+)/v1", line):
                break
        else:
            raise AssertionError(lines)
        reading = threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True)
        reading.start()
        yield Running(found[1], process, lines)
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            assert process.wait(30) is not None
        finally:
            process.kill()


def workers(parent: int) -> set[int]:
    """Processes that a process has started and that listen with it."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if int(fields[1]) == parent and b"spawn_main" in command and fields[0] != "Z":
                found.add(int(entry.name))
    return found
