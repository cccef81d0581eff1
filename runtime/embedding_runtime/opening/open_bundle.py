"""Opens a bundle: makes every check between a folder's name and a graph that may be run."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from embedding_runtime.bundle import BundleGraph, Graph, Manifest, load_manifest
from embedding_runtime.engines.backends import Backend, backend
from embedding_runtime.engines.padding import pad
from embedding_runtime.engines.registry import Session, check_engine_version
from embedding_runtime.errors import EngineError, InputError
from embedding_runtime.machine.cpu import cpu_fingerprint
from embedding_runtime.machine.device_cache import CacheKey, open_prepared, read_ahead
from embedding_runtime.machine.threads import resolve_threads
from embedding_runtime.opening.golden import check_golden_ids, check_golden_vectors, golden_tolerance
from embedding_runtime.opening.integrity import Stamps, Verify, verify_files
from embedding_runtime.opening.selection import check_parity, choose_graph
from embedding_runtime.tokenizers.tokenizer import Tokenizer, open_tokenizer
from embedding_runtime.vectors import Floats

# Of the golden vectors the one nearest to this length is checked at every opening: a few milliseconds.
_QUICK_GOLDEN_TOKENS = 32


@dataclass(frozen=True)
class Choice:
    """Which graph to open and how; see `Embedder.load`."""

    format: str | None = None
    precision: str | None = None
    threads: int | None = None
    verify: Verify = "cached"
    allow_failed: bool = False
    device_cache: bool | None = None


@dataclass(frozen=True)
class Opened:
    """A bundle whose files, tokenizer and chosen graph have passed their checks."""

    path: Path
    manifest: Manifest
    graph: Graph
    tokenizer: Tokenizer
    session: Session

    @property
    def max_length(self) -> int:
        """The number of tokens of a text that are read: the model's limit, or the graph's largest bucket if
        that is shorter."""
        return BundleGraph(self.path, self.manifest, self.graph).max_length

    def check_golden(self) -> float:
        """Largest absolute difference to the golden vectors.

        Raises:
            BundleError: it exceeds the tolerance.
        """
        return check_golden_vectors(self.graph, _vectors(self.session, self.manifest.tokenizer.pad_id))


def open_bundle(path: Path, choice: Choice) -> Opened:
    """Open a bundle: check manifest, verdict, files, tokenizer, graph and golden vectors, in this order.

    Raises:
        BundleError: damaged, changed, found wrong, or its vectors differ from those at export.
        EngineError: the engine is missing, too old, or does not load the graph.
        InputError: no such graph, or a bad value in `choice`.
    """
    if choice.verify not in ("cached", "always"):
        raise InputError(f"verify is {choice.verify!r}; expected 'cached' or 'always'.")
    threads = resolve_threads(choice.threads)
    manifest = load_manifest(path)
    bundle_graph = BundleGraph(path, manifest, choose_graph(manifest, choice.format, choice.precision))
    check_parity(bundle_graph, choice.allow_failed)
    version = check_engine_version(bundle_graph.graph)
    golden = tuple(g for g in bundle_graph.graph.golden if len(g.ids) <= bundle_graph.max_length)
    graph, pad_id = replace(bundle_graph.graph, golden=golden), manifest.tokenizer.pad_id
    engine = backend(graph, bundle_graph.path, threads, pad_id)
    key = cache_key(graph, engine.layout) if _is_prepared(engine, graph, choice) else None
    if key:
        read_ahead(key)
    stamps, before = Stamps.read(path), Stamps.read(path)
    names = (manifest.tokenizer.file, *bundle_graph.sizes)
    verify_files(path, manifest, names, stamps, choice.verify)
    tokenizer = open_tokenizer(path, manifest.tokenizer, verify=False)  # its hash was just compared
    check_golden_ids(tokenizer, manifest.tokenizer)
    session = (key and _prepared(engine, key, graph, pad_id)) or engine.open()
    opened = Opened(path, manifest, graph, tokenizer, session)
    passed = f"{graph.variant_id} {cpu_fingerprint()} {version}"
    if not choice.allow_failed and (choice.verify == "always" or passed not in stamps.golden):
        opened.check_golden()
        stamps.golden = [*(g for g in stamps.golden if g != passed), passed]
    if stamps != before:
        stamps.write()
    return opened


def _is_prepared(engine: Backend, graph: Graph, choice: Choice) -> bool:
    """Whether packed weights in the device's cache are worthwhile or requested, and can be checked."""
    prepare = engine.pays if choice.device_cache is None else choice.device_cache
    checkable = graph.golden and golden_tolerance(graph) is not None
    return bool(prepare and checkable and not choice.allow_failed)


def _prepared(engine: Backend, key: CacheKey, graph: Graph, pad_id: int) -> Session | None:
    """A session on packed weights in the device's cache; None if there are none.

    The session is checked against the graph itself when the files are made, and by a golden vector at every
    opening.
    """
    quick = min(graph.golden, key=lambda g: abs(len(g.ids) - _QUICK_GOLDEN_TOKENS))

    def make(folder: Path) -> None:
        engine.build(folder)
        expected = _golden(engine.open(), graph, pad_id)
        if not np.array_equal(_golden(engine.open_prepared(folder), graph, pad_id), expected):
            raise EngineError(f"Packed weights of {graph.key} do not give its vectors; they are not used.")

    return open_prepared(
        key,
        make,
        engine.open_prepared,
        lambda session: check_golden_vectors(replace(graph, golden=(quick,)), _vectors(session, pad_id)),
    )


def cache_key(graph: Graph, layout: str) -> CacheKey:
    """The key of the files that this device prepares for a graph."""
    return CacheKey(graph.variant_id, graph.engine, check_engine_version(graph), cpu_fingerprint(), layout)


def _golden(session: Session, graph: Graph, pad_id: int) -> Floats:
    """A session's vectors for the golden inputs (N, D)."""
    return np.stack([_vectors(session, pad_id)(golden.ids) for golden in graph.golden])


def _vectors(session: Session, pad_id: int) -> Callable[[tuple[int, ...]], Floats]:
    """A function from token ids to the graph's vector (D,)."""

    def vector(ids: tuple[int, ...]) -> Floats:
        batch, mask = pad([np.array(ids, dtype=np.int32)], pad_id)
        output: Floats = session.run(batch, mask, ("sentence_embedding",))[0][0]
        return output

    return vector
