"""What the page is given: graphs with their golden vectors, token ids of each length, and how to measure."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedding_runtime.bundle import BundleGraph, Manifest, bundle_graphs
from embedding_runtime.errors import InputError
from embedding_runtime.opening.selection import default_precisions
from embedding_validate.compare.measure.protocol import token_ids


@dataclass(frozen=True)
class Plan:
    """What is measured: `lengths` in tokens, `threads` of wasm, `seconds` for each length, and `limit`, the
    seconds after which an engine that has not answered is ended."""

    name: str
    manifest: Manifest
    graphs: tuple[BundleGraph, ...]
    lengths: tuple[int, ...]
    threads: tuple[int, ...]
    seconds: float
    limit: float

    def files(self, graph: BundleGraph) -> tuple[str, ...]:
        """The graph's own file, then those with its weights, by their names in the bundle."""
        return (graph.graph.file, *graph.graph.external_data)

    def path(self, name: str) -> Path | None:
        """A file of one of the graphs; None for any other name."""
        return next((g.folder / name for g in self.graphs if name in self.files(g)), None)

    def tolerance(self, graph: BundleGraph) -> float:
        """The largest difference of a component that is allowed to any CPU: nobody knows a browser's."""
        return graph.graph.golden_tolerance["any"]

    def to_json(self, ended: Sequence[str]) -> dict[str, Any]:
        """What the page reads; `ended` names cases in which the browser closed it before."""
        vocab = self.manifest.architecture.vocab_size
        return {
            "bundle": self.name,
            "random_weights": self.manifest.source.random_weights,
            "threads": self.threads,
            "seconds": self.seconds,
            "limit": self.limit,
            "ended": list(ended),
            "texts": {str(n): token_ids(vocab, 1, n)[0].tolist() for n in self.lengths},
            "graphs": [self._graph(graph) for graph in self.graphs],
        }

    def _graph(self, bundle_graph: BundleGraph) -> dict[str, Any]:
        graph = bundle_graph.graph
        return {
            "key": graph.key,
            "format": graph.format,
            "files": [
                {"name": Path(name).name, "url": f"/bundle/{name}", "size": bundle_graph.sizes[name]}
                for name in self.files(bundle_graph)
            ],
            "buckets": graph.buckets,
            "pad_id": self.manifest.tokenizer.pad_id,
            "lengths": [n for n in self.lengths if n <= bundle_graph.max_length],
            "tolerance": self.tolerance(bundle_graph),
            "golden": [{"ids": g.ids, "vector": g.vector.tolist()} for g in graph.golden],
        }


def choose(folder: Path, manifest: Manifest, keys: Sequence[str] | None) -> tuple[BundleGraph, ...]:
    """The graphs asked for by key, or of each format the one that the runtime would take.

    Raises:
        InputError: a key that the bundle does not have, or a graph without golden vectors.
    """
    graphs = bundle_graphs(folder, manifest)
    have = {graph.key for graph in graphs}
    if unknown := set(keys or ()) - have:
        missing = ", ".join(key or "''" for key in sorted(unknown))
        raise InputError(f"No graph {missing}; there are {', '.join(sorted(have))}.")
    choices = [g for g in graphs if g.key in keys] if keys else _first_choices(graphs)
    if bare := [g.key for g in choices if not g.graph.golden]:
        raise InputError(f"{', '.join(bare)} has no golden vectors to compare with. Export the bundle again.")
    return tuple(choices)


def _first_choices(graphs: Sequence[BundleGraph]) -> list[BundleGraph]:
    order = [*default_precisions(g.graph for g in graphs), "int4"]
    by_format: dict[str, BundleGraph] = {}
    for graph in sorted(graphs, key=lambda g: order.index(g.graph.precision)):
        by_format.setdefault(graph.graph.format, graph)
    return list(by_format.values())
