"""Processes that build prepared files: in each other's way, killed, or not allowed to write that much."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from embedding_runtime import Embedder
from embedding_runtime.machine import device_cache
from embedding_runtime.machine.device_cache import (
    ABANDONED_SECONDS,
    SEAL,
    CacheKey,
    entries_folder,
    open_prepared,
    require_file_size,
)

pytestmark = [
    pytest.mark.usefixtures("cache"),
    pytest.mark.skipif(sys.platform != "linux", reason="needs locks that end with their process"),
]
KEY = CacheKey("graph", "engine", "1", "cpu", "layout")
# Builds an entry until it is told to stop.
BUILDER = """
import sys, time
from pathlib import Path
from embedding_runtime.machine.device_cache import CacheKey, open_prepared

def build(folder):
    (folder / "file").write_bytes(b"half")
    print("building", flush=True)
    time.sleep(600)

open_prepared(CacheKey("graph", "engine", "1", "cpu", "layout"), build, Path.exists, bool)
"""


def write(folder: Path) -> None:
    (folder / "file").write_bytes(b"prepared")


def read(folder: Path) -> bytes:
    return (folder / "file").read_bytes()


def building() -> list[Path]:
    return list(entries_folder().glob(".building-*"))


def aged(folder: Path) -> None:
    then = time.time() - 2 * ABANDONED_SECONDS
    os.utime(folder, (then, then))


def test_what_a_killed_process_has_left_goes_with_the_next_build() -> None:
    """A service that is killed as it builds, and started again, would fill the disk."""
    with subprocess.Popen([sys.executable, "-c", BUILDER], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"building\n"
        (left,) = building()
        aged(left)
        assert open_prepared(KEY, write, read, len) == b"prepared"
        assert building() == [left], "it is still being built"
        process.send_signal(signal.SIGKILL)
    assert building() == [left]
    shutil.rmtree(entries_folder() / KEY.name)
    assert open_prepared(KEY, write, read, len) == b"prepared"
    assert building() == []


def test_an_interrupted_build_leaves_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", BUILDER], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"building\n"
        process.send_signal(signal.SIGINT)
    assert list(entries_folder().iterdir()) == []


def test_the_entry_of_a_quicker_process_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """It appears in the moment between the last look and the renaming."""
    discard = device_cache._discard

    def overtaken(entry: Path) -> None:
        discard(entry)
        (mine,) = building()
        shutil.copytree(mine / "entry", entry)

    monkeypatch.setattr(device_cache, "_discard", overtaken)
    assert open_prepared(KEY, write, read, len) == b"prepared"
    assert sorted(p.name for p in (entries_folder() / KEY.name).iterdir()) == ["file", SEAL]


@pytest.mark.parametrize("device_cache", [None, False])
def test_a_process_whose_files_may_not_grow(litert_bundle: Path, device_cache: bool | None) -> None:
    """LiteRT would end it without a word, whether it packs weights in a file or in memory."""
    code = (
        "import resource, sys; from embedding_runtime import Embedder\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "options = dict(format='litert', precision='int8', threads=1)\n"
        f"Embedder({str(litert_bundle)!r}, **options, device_cache={device_cache})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "EngineError: ai-edge-litert cannot pack the weights" in done.stderr
    assert "ulimit -f" in done.stderr


def test_a_limit_on_files_is_asked_for_first() -> None:
    require_file_size(1 << 60)
    _, most = before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most))
        with pytest.raises(OSError, match="1001 bytes needed, ulimit -f allows a file 1000"):
            require_file_size(1001)
        require_file_size(1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_json_without_a_bottom_costs_time_only(tiny_bundle: Path, cache: Path) -> None:
    """In what the device keeps: what is known of a bundle, and seals."""
    options = {"precision": "fp32", "threads": 1, "device_cache": True}
    Embedder(tiny_bundle, **options)  # type: ignore[arg-type]
    for file in cache.rglob("*.json"):
        file.write_text("[" * 200_000)
    Embedder(tiny_bundle, **options)  # type: ignore[arg-type]
    assert all(len(file.read_text()) < 100_000 for file in cache.rglob("*.json"))
