"""ONNX Runtime with its packed weights in a file: prepared once on a device, memory-mapped from then on.

Without this, every session packs all weights into memory of its own. `open_bundle` decides which graphs use
it, and `device_cache` guards the files.
"""

import json
import mmap
from collections.abc import Mapping
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.engines.onnx_files.four_bits import has_four_bits
from embedding_runtime.engines.onnx_files.seven_bits import with_seven_bits
from embedding_runtime.engines.onnx_files.tables import Table, without_tables
from embedding_runtime.engines.onnx_session import OnnxSession, create_session, session_options
from embedding_runtime.errors import BundleError, EngineError
from embedding_runtime.machine.device_cache import require_room

# Part of the cache key: raise it when the files below change their meaning.
LAYOUT = "onnx-prepacked-1"
MODEL = "model.onnx"
DATA = "model.data"
TABLES = "tables.json"
# Smaller tensors stay inside the model file.
_EXTERNAL_BYTES = "1024"


def build(graph: Path, folder: Path, seven_bits: bool = False) -> None:
    """Write the optimised graph, its weights both plain and packed, and a record of where its tables lie;
    `seven_bits` as in `OnnxSession`.

    Raises:
        BundleError, EngineError: the graph cannot be read or loaded.
        OSError: no room, or `folder` cannot be written.
    """
    model, tables = without_tables(graph.read_bytes())
    held = sum(p.stat().st_size for p in graph.parent.glob(f"{graph.name}_data*"))
    copies = 3 if has_four_bits(model) else 2  # as they are and packed; what has 4 bits has 8 then
    require_room(folder, copies * max(0, held - sum(t.size for t in tables)))
    options = session_options(threads=1, seven_bits=seven_bits)
    options.optimized_model_filepath = str(folder / MODEL)
    for key, value in {
        "session.optimized_model_external_initializers_file_name": DATA,
        "session.optimized_model_external_initializers_min_size_in_bytes": _EXTERNAL_BYTES,
        "session.save_external_prepacked_constant_initializers": "1",
    }.items():
        options.add_session_config_entry(key, value)
    create_session(with_seven_bits(model) if seven_bits else model, options, graph)
    (folder / TABLES).write_text(json.dumps([asdict(t) for t in tables]), encoding="utf-8")


def open_prepacked(folder: Path, graph: Path, threads: int, seven_bits: bool = False) -> OnnxSession:
    """A session on what `build` wrote, with the tables mapped from beside `graph`.

    Raises:
        EngineError: the engine does not load it.  BundleError: a table is not at its recorded place.
    """
    try:
        noted = json.loads((folder / TABLES).read_text(encoding="utf-8"))
        tables = [Table(**{**entry, "shape": tuple(entry["shape"])}) for entry in noted]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
        raise EngineError(f"{folder / TABLES} cannot be read ({e}). It will be written again.") from e
    return OnnxSession(folder / MODEL, threads, _mapped(tables, graph.parent), seven_bits)


def _mapped(tables: list[Table], beside: Path) -> Mapping[str, NDArray[Any]]:
    try:
        files = {name: _map(beside / name) for name in {t.file for t in tables}}
        return {
            t.name: np.frombuffer(files[t.file], t.dtype, prod(t.shape), t.offset).reshape(t.shape)
            for t in tables
        }
    except (OSError, ValueError) as e:
        raise BundleError(f"A table cannot be mapped ({e}). Export the bundle again.") from e


def _map(path: Path) -> mmap.mmap:
    """Map a file and have its pages read from the disk one by one: rows of a table are read at random."""
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mapping, "madvise"):
        mapping.madvise(mmap.MADV_RANDOM)
    return mapping
