"""How each engine opens a graph, as it is or with files prepared on the device. Callers do the checks.

The modules of an engine are imported with its first graph, so that a cold start does not load those it does
not use.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from embedding_runtime.bundle import Format, Graph
from embedding_runtime.engines.registry import Session, takes_seven_bits

# Where packed weights in a file are worth the disk with ONNX Runtime: int8 saves 94 MB of memory for 210 MB
# of disk, int4 73 MB for 147 MB.
PREPACKED_PRECISIONS = ("int8", "int8_q4", "int4")


@dataclass(frozen=True)
class Backend:
    """One graph and its engine.

    `layout` names the code that prepares files; `pays` says whether they are worth the disk. `data` names the
    files that the graph itself says its weights lie in, beside it. `build` fills an
    empty folder with them, and `open_prepared` opens it.
    """

    layout: str
    pays: bool
    data: Callable[[], set[str]]
    open: Callable[[], Session]
    build: Callable[[Path], None]
    open_prepared: Callable[[Path], Session]


def backend(graph: Graph, file: Path, threads: int, pad_id: int) -> Backend:
    """The backend for the graph in `file`."""
    return _BACKENDS[graph.format](graph, file, threads, pad_id)


def _onnx(graph: Graph, file: Path, threads: int, _: int) -> Backend:
    """The ONNX backend. Files prepared with 7 bits are not those of 8."""
    from embedding_runtime.engines import onnx_prepacked
    from embedding_runtime.engines.onnx_files.links import data_names
    from embedding_runtime.engines.onnx_session import OnnxSession

    seven = takes_seven_bits(graph)
    return Backend(
        f"{onnx_prepacked.LAYOUT}{'-7bit' if seven else ''}",
        graph.precision in PREPACKED_PRECISIONS,
        lambda: data_names(file),
        lambda: OnnxSession(file, threads, seven_bits=seven),
        lambda folder: onnx_prepacked.build(file, folder, seven),
        lambda folder: onnx_prepacked.open_prepacked(folder, file, threads, seven),
    )


def _litert(_: Graph, file: Path, threads: int, pad_id: int) -> Backend:
    """The LiteRT backend. XNNPACK packs weights in every precision, in a file or in memory."""
    from embedding_runtime.engines import litert_packed
    from embedding_runtime.engines.litert_session import LitertSession

    return Backend(
        litert_packed.LAYOUT,
        True,
        set,
        lambda: LitertSession(file, threads, pad_id),
        lambda folder: litert_packed.build(file, folder, pad_id),
        lambda folder: litert_packed.open_packed(folder, file, threads, pad_id),
    )


_BACKENDS: dict[Format, Callable[[Graph, Path, int, int], Backend]] = {"onnx": _onnx, "litert": _litert}
