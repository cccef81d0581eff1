"""What the bytes of a graph's files are for: table, attention, feed-forward, Dense, and the rest.

Reads either format, where the package that knows it is installed (`onnx`, of the extra `export`, or
ai-edge-litert). Opens no graph for running.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

from embedding_export.architectures.registry import ARCHITECTURES
from embedding_runtime.bundle import BundleGraph

REST = "rest"


def by_part(graph: BundleGraph) -> dict[str, int] | None:
    """Bytes of each part of a graph's files; None where its reader is not installed.

    The rest is what no weight's own bytes account for: norms, constants, structure, conversion tables.
    """
    try:
        found = list((_onnx if graph.graph.format == "onnx" else _litert)(graph.path))
    except ImportError:
        return None
    architecture = ARCHITECTURES[graph.manifest.architecture.model_type]
    sizes = dict.fromkeys(("table", "attention", "feed-forward", "Dense"), 0)
    for name, size in found:
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
    """Each buffer once: signatures share them."""
    from ai_edge_litert import schema_py_generated as schema

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        model = schema.Model.GetRootAs(mapping)
        names: dict[int, str] = {}
        for graph in (model.Subgraphs(i) for i in range(model.SubgraphsLength())):
            for tensor in (graph.Tensors(i) for i in range(graph.TensorsLength())):
                names.setdefault(tensor.Buffer(), tensor.Name().decode())
        for buffer, name in names.items():
            found = model.Buffers(buffer)
            yield name, found.Size() or found.DataLength()
        del model, graph, tensor, found  # they hold the mapping open
