"""Examines a bundle on this machine: which graph is loaded, whether it is right, and how fast it is."""

import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from embedding_runtime.bundle import BundleGraph, Graph, bundle_graphs, load_manifest
from embedding_runtime.embedder import Embedder
from embedding_runtime.engines.backends import backend
from embedding_runtime.engines.registry import ENGINES, installed, takes_seven_bits, unfit, usable
from embedding_runtime.errors import EmbeddingError
from embedding_runtime.machine.device_cache import entries_folder
from embedding_runtime.machine.process_memory import process_memory
from embedding_runtime.opening.golden import golden_tolerance
from embedding_runtime.opening.open_bundle import cache_key
from embedding_runtime.opening.selection import FORMAT_ORDER, check_parity, choose_graph, default_precisions

TEXT = "Which planet is known as the Red Planet?"
SECONDS = 1.0
# Graphs that are tried beside the chosen one may take this share of the memory that is free.
_SHARE = 0.5


@dataclass(frozen=True)
class Speed:
    """The speed of one query, repeated for a second: its tokens, and the median in milliseconds."""

    tokens: int
    milliseconds: float
    runs: int


@dataclass(frozen=True)
class GraphState:
    """A graph of the bundle: its files' size in bytes, whether it is the chosen one, and why (not).
    `bit_stable` is the manifest's."""

    key: str
    size: int
    chosen: bool
    why: str
    speed: Speed | None = None
    bit_stable: bool | None = None


@dataclass(frozen=True)
class BundleState:
    """A bundle as this machine sees it; `golden_difference` is the largest one to the export's vectors.

    `anonymous` is the whole process's own memory in bytes with the chosen graph open and used; `proportional`
    adds its share of what several processes map. `trimmed` says whether the vocabulary is trimmed to an
    alphabet.
    """

    path: str
    source: str | None = None
    trimmed: bool = False
    graphs: tuple[GraphState, ...] = ()
    parity: str | None = None
    golden_difference: float | None = None
    golden_tolerance: float | None = None
    load_seconds: float | None = None
    prepared: bool = False
    anonymous: int | None = None
    proportional: int | None = None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def chosen(self) -> GraphState | None:
        """The graph that is loaded by default."""
        return next((g for g in self.graphs if g.chosen), None)


def examine_bundle(path: Path, threads: int, memory: int | None) -> BundleState:
    """Open, check and time a bundle; `memory` is the number of bytes that may be used.

    Every fault becomes an entry of `problems`; none is raised.
    """
    state = BundleState(str(path))
    try:
        manifest = load_manifest(path)
        state = replace(state, source=manifest.source.name, trimmed=manifest.tokenizer.alphabet is not None)
        default = choose_graph(manifest, None, None)
        graphs = bundle_graphs(path, manifest)
        state = replace(state, graphs=tuple(_described(g, default) for g in graphs))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            state = _opened(state, next(g for g in graphs if g.graph == default), threads)
    except EmbeddingError as e:
        return replace(state, problems=(str(e),))
    state = replace(state, notes=tuple(str(w.message) for w in caught), problems=_damaged(graphs))
    room = None if memory is None else int(memory * _SHARE)
    timed = (_timed(s, g, threads, room) for s, g in zip(state.graphs, graphs, strict=True))
    return replace(state, graphs=tuple(timed))


def _damaged(graphs: Sequence[BundleGraph]) -> tuple[str, ...]:
    """Files of graphs that are missing or of another size; the chosen graph's have been hashed."""
    faults = []
    for path, expected in ((g.folder / name, size) for g in graphs for name, size in g.sizes.items()):
        size = path.stat().st_size if path.is_file() else None
        if size != expected:
            what = "is missing" if size is None else f"has {size} bytes; the manifest says {expected}"
            faults.append(f"{path} {what}. Copy or export the bundle again.")
    return tuple(faults)


def _opened(state: BundleState, default: BundleGraph, threads: int) -> BundleState:
    path, graph, started = default.folder, default.graph, time.perf_counter()
    with Embedder(path, threads=threads) as embedder:
        seconds = time.perf_counter() - started
        speed = _speed(embedder)
        held = process_memory()
    # Every file is hashed again, and every golden vector compared.
    with Embedder(path, threads=threads, verify="always", device_cache=None) as embedder:
        difference = embedder.check_golden()
    layout = backend(graph, default.path, threads, default.manifest.tokenizer.pad_id).layout
    return replace(
        state,
        graphs=tuple(replace(g, speed=speed) if g.chosen else g for g in state.graphs),
        parity=graph.parity.status,
        golden_difference=difference,
        golden_tolerance=golden_tolerance(graph),
        load_seconds=seconds,
        prepared=os.path.exists(entries_folder() / cache_key(default, layout).name),  # noqa: PTH110
        anonymous=held.anonymous if held else None,
        proportional=held.proportional if held else None,
    )


def _described(one: BundleGraph, default: Graph) -> GraphState:
    graph, size = one.graph, sum(one.sizes.values())
    seven = "; without VNNI its activations have 7 bits here" if takes_seven_bits(graph) else ""
    why = f"{_why(graph, default)}{seven}"
    return GraphState(one.key, size, graph == default, why, bit_stable=graph.bit_stable)


def _why(graph: Graph, default: Graph) -> str:
    """Why a graph is the default or not, by `selection`'s rules: precision first, then format."""
    engine, order = ENGINES[graph.format].name, default_precisions((graph, default))
    if unfit(graph.format):
        return f"its engine {engine} does not run on this CPU"
    if not installed(graph.format):
        return f"its engine {engine} is not installed"
    if graph == default:
        return f"the first of {', '.join(order)} that the bundle has and an installed engine runs"
    if graph.precision not in order:
        return f"{graph.precision} is used only on request"
    if graph.precision == default.precision:
        return f"{FORMAT_ORDER[0]} is preferred to {graph.format} if both engines are installed"
    return f"{default.precision} is preferred to {graph.precision}"


def _timed(state: GraphState, one: BundleGraph, threads: int, room: int | None) -> GraphState:
    """Add a speed if the graph could be used instead and fits in memory beside what runs."""
    graph = one.graph
    fits = room is not None and state.size <= room and usable(graph.format)
    if state.chosen or graph.precision in ("fp32", "fp16") or not fits:
        return state
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_parity(one, allow_failed=False)
            options = {"format": graph.format, "precision": graph.precision, "device_cache": False}
            with Embedder(one.folder, threads=threads, **options) as embedder:  # type: ignore[arg-type]
                return replace(state, speed=_speed(embedder))
    except EmbeddingError as e:
        return replace(state, why=f"{state.why}; and it does not open here: {e}")


def _speed(embedder: Embedder) -> Speed:
    tokens = embedder.tokenize([embedder.prompts["query"] + TEXT])["input_ids"].shape[1]
    embedder.encode_query(TEXT)
    times: list[float] = []
    until = time.perf_counter() + SECONDS
    while not times or time.perf_counter() < until:
        started = time.perf_counter()
        embedder.encode_query(TEXT)
        times.append(time.perf_counter() - started)
    return Speed(tokens, 1000 * median(times), len(times))
