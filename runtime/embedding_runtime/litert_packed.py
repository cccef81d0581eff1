"""LiteRT with XNNPACK's packed weights in a file: prepared once on a device, memory-mapped from then on.

XNNPACK believes the file: another model's, or a damaged one, gives wrong vectors without a word. What guards
it is the business of `opened` and `device_cache`.
"""

from pathlib import Path

from embedding_runtime.device_cache import require_room
from embedding_runtime.errors import EngineError
from embedding_runtime.litert_session import LitertSession

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
    require_room(folder, graph.stat().st_size)
    LitertSession(graph, 1, pad_id, folder / WEIGHTS)
    if not (folder / WEIGHTS).exists():
        raise EngineError(f"ai-edge-litert wrote no packed weights of {graph}; they are kept in memory.")
    # An engine that takes the file for stale would write it anew in place, under those who have it mapped.
    (folder / WEIGHTS).chmod(_READ_ONLY)


def open_packed(folder: Path, graph: Path, threads: int, pad_id: int) -> LitertSession:
    """A session on what `build` wrote.

    Raises:
        EngineError: the engine does not load it, or has written the file anew.
        OSError: the file is gone.
    """
    file = folder / WEIGHTS
    before = file.stat()
    session = LitertSession(graph, threads, pad_id, file)
    after = file.stat()
    if (before.st_mtime_ns, before.st_size, before.st_ino) != (
        after.st_mtime_ns,
        after.st_size,
        after.st_ino,
    ):
        raise EngineError(f"ai-edge-litert wrote {file} anew while it was opened. It will be made again.")
    return session
