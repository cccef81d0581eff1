"""LiteRT with XNNPACK's packed weights in a file: prepared once on a device, memory-mapped from then on.

XNNPACK trusts the file: one of another model, or a damaged one, gives wrong vectors silently. `open_bundle`
and `device_cache` guard against that.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embedding_runtime.engines.litert_session import LitertSession
from embedding_runtime.errors import EngineError
from embedding_runtime.machine.device_cache import require_file_size, require_room

# Part of the cache key: raise it when the file below changes its meaning.
LAYOUT = "litert-xnnpack-1"
WEIGHTS = "weights.xnnpack"
_READ_ONLY = 0o444


def build(graph: Path, folder: Path, pad_id: int) -> None:
    """Write the packed weights of all signatures: opening a graph compiles them all.

    Raises:
        EngineError: the engine does not load the graph, or writes no weights.
        OSError: no room, or `folder` cannot be written.
    """
    target = folder / WEIGHTS
    with _safe_to_write(target, graph.stat().st_size) as file:
        LitertSession(graph, 1, pad_id, file)
        if file != target:
            shutil.copyfile(file, target)
    if not target.exists() or target.stat().st_size == 0:
        raise EngineError(f"ai-edge-litert wrote no packed weights of {graph}; they are kept in memory.")
    # An engine that takes the file for stale would rewrite it in place, under processes that have it mapped.
    target.chmod(_READ_ONLY)


def open_packed(folder: Path, graph: Path, threads: int, pad_id: int) -> LitertSession:
    """A session on what `build` wrote.

    Raises:
        EngineError: the engine does not load it, or has rewritten the file.
        OSError: the file is gone.
    """
    file = folder / WEIGHTS
    before = _identity(file)
    session = LitertSession(graph, threads, pad_id, file)
    if _identity(file) != before:
        raise EngineError(f"ai-edge-litert rewrote {file} while opening it. The file will be made again.")
    return session


@contextmanager
def _safe_to_write(target: Path, graph_bytes: int) -> Iterator[Path]:
    """A file in memory if the system has such files; else `target` itself, if the disk has room.

    XNNPACK ends the process if it cannot write.

    Raises:
        OSError: it could not.
    """
    require_file_size(graph_bytes)
    descriptor = os.memfd_create("packed-weights") if hasattr(os, "memfd_create") else None
    try:
        path = Path(f"/proc/self/fd/{descriptor}")
        if descriptor is None or not path.exists():
            require_room(target.parent, graph_bytes)
            path = target
        yield path
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _identity(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
