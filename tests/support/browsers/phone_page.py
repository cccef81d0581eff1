"""`compare-phone` as tests start it: a process on a free port, and the link that it shows."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from embedding_runtime.errors import EngineError
from embedding_validate.compare.phone import engines


@dataclass
class Serving:
    """The process, its lines so far, and its first link."""

    process: "subprocess.Popen[str]"
    lines: list[str]
    link: str

    def stop(self) -> int:
        """End it as Ctrl-C does; its exit status."""
        self.process.terminate()
        return self.process.wait(30)


def needs_engines() -> None:
    """Skip where npm's packages have not been fetched."""
    try:
        engines.require()
    except EngineError as e:
        pytest.skip(str(e))


@contextmanager
def serving(bundle: Path, output: Path, *options: str) -> Iterator[Serving]:
    """The page of a bundle."""
    command = [sys.executable, "-m", "embedding_validate.compare.phone.cli", str(bundle)]
    process = subprocess.Popen(
        [*command, "--output", str(output), "--port", "0", *options], stderr=subprocess.PIPE, text=True
    )
    lines: list[str] = []
    try:
        assert process.stderr
        for line in process.stderr:
            lines.append(line.rstrip())
            if found := re.search(r"^open (\S+)", line):
                break
        else:
            raise AssertionError(lines)
        threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True).start()
        yield Serving(process, lines, found[1])
    finally:
        process.kill()
        process.wait()
