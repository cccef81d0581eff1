"""The bytes of a graph's files by part: table, attention, feed-forward, Dense, and the rest.

It reads either format if the package for it is installed (`onnx`, of the extra `export`, or ai-edge-litert).
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

from embedding_export.architectures.registry import ARCHITECTURES
from embedding_runtime.bundle import BundleGraph

REST = "rest"


def by_part(graph: BundleGraph) -> dict[str, int] | None:
    """Bytes of each part of a graph's files; None if its reader is not installed.

    The rest is everything other than the weights' own bytes: norms, constants, structure, conversion tables.
    """
    try:
        weights = list((_onnx if graph.graph.format == "onnx" else _litert)(graph.path))
    except ImportError:
        return None
    architecture = ARCHITECTURES[graph.manifest.architecture.model_type]
    sizes = dict.fromkeys(("table", "attention", "feed-forward", "Dense"), 0)
    for name, size in weights:
        part = "head" if name.startswith("dense.") else architecture.part_of(name)
        if part is not None:
            label = "Dense" if part == "head" else part
            sizes[label] = sizes.get(label, 0) + size
    return {**sizes, REST: sum(graph.sizes.values()) - sum(sizes.values())}


def _onnx(path: Path) -> Iterator[tuple[str, int]]:
    import onnx

    for tensor in onnx.load(str(path), load_external_data=False).graph.initializer:
        external = {entry.key: entry.value for entry in tensor.external_data}
        yield tensor.name, int(external.get("length", tensor.ByteSize()))


def _litert(path: Path) -> Iterator[tuple[str, int]]:
    """Names and sizes of buffers, each once, because signatures share them."""
    from ai_edge_litert import schema_py_generated as schema

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        model = schema.Model.GetRootAs(mapping)
        names: dict[int, str] = {}
        for graph in (model.Subgraphs(i) for i in range(model.SubgraphsLength())):
            for tensor in (graph.Tensors(i) for i in range(graph.TensorsLength())):
                names.setdefault(tensor.Buffer(), tensor.Name().decode())
        for buffer, name in names.items():
            data = model.Buffers(buffer)
            yield name, data.Size() or data.DataLength()
        del model, graph, tensor, data  # they hold the mapping open
