"""Opens a bundle: makes every check between a folder's name and a graph that may be run."""

import hashlib
import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from embedding_runtime.bundle import BundleGraph, Graph, Manifest, load_manifest
from embedding_runtime.engines.backends import Backend, backend
from embedding_runtime.engines.padding import pad
from embedding_runtime.engines.registry import Session, check_engine_version
from embedding_runtime.errors import BundleError, EmbeddingError, EngineError, InputError
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
    key = cache_key(bundle_graph, engine.layout) if _is_prepared(engine, graph, choice) else None
    if key:
        read_ahead(key)
    stamps = Stamps.read(path)
    before = deepcopy(stamps)
    names = (manifest.tokenizer.file, *bundle_graph.sizes)
    verify_files(path, manifest, names, stamps, choice.verify)
    tokenizer = open_tokenizer(path, manifest.tokenizer, verify=False)  # its hash was just compared
    check_golden_ids(tokenizer, manifest.tokenizer)
    session = (key and _prepared(engine, key, graph, pad_id)) or engine.open()
    opened = Opened(path, manifest, graph, tokenizer, session)
    passed = f"{_compared(bundle_graph)} {cpu_fingerprint()} {version}"
    if not choice.allow_failed and (choice.verify == "always" or passed not in stamps.golden):
        _check_listed(bundle_graph, engine.data())
        opened.check_golden()
        stamps.golden = [*(g for g in stamps.golden if g != passed), passed]
    if stamps != before:
        stamps.write()
    return opened


def _check_listed(one: BundleGraph, data: set[str]) -> None:
    """Refuse a graph with weights in files that the manifest does not list: nobody has compared those."""
    folder = PurePosixPath(one.graph.file).parent
    if unlisted := {str(folder / name) for name in data} - {str(PurePosixPath(name)) for name in one.sizes}:
        raise BundleError(
            f"The graph {one.key} has weights in {sorted(unlisted)}, which the manifest does not name as its "
            "external_data. Export the bundle again."
        )


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
        expected = _expected(engine, graph, pad_id)
        engine.build(folder)
        if not np.array_equal(_golden(engine.open_prepared(folder), graph, pad_id), expected):
            raise EngineError(f"Packed weights of {graph.key} do not give its vectors; they are not used.")

    def check(session: Session) -> float:
        return check_golden_vectors(replace(graph, golden=(quick,)), _vectors(session, pad_id))

    try:
        return open_prepared(key, make, engine.open_prepared, check)
    except _GraphFault as e:
        raise e.error from e.error.__cause__


class _GraphFault(Exception):
    """An error of the graph itself: it is told as it is, not as a reason to do without prepared files."""

    def __init__(self, error: EmbeddingError) -> None:
        super().__init__(str(error))
        self.error = error


def _expected(engine: Backend, graph: Graph, pad_id: int) -> Floats:
    """The graph's own vectors for the golden inputs (N, D), checked."""
    try:
        session = engine.open()
        check_golden_vectors(graph, _vectors(session, pad_id))
        return _golden(session, graph, pad_id)
    except EmbeddingError as e:
        raise _GraphFault(e) from e


def _bytes(one: BundleGraph) -> str:
    """A hash of the records of a graph's files: its `variant_id`, unless the manifest was edited."""
    digests = [one.manifest.files[name].sha256 for name in one.sizes]
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()[:32]


def _compared(one: BundleGraph) -> str:
    """A hash of all that a comparison with golden vectors depends on; of a manifest edited since, another."""
    graph, ids = one.graph, one.manifest.tokenizer
    facts = (_bytes(one), graph.golden, graph.golden_tolerance, one.max_length, ids.pad_id)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def cache_key(one: BundleGraph, layout: str) -> CacheKey:
    """The key of the files that this device prepares for a graph."""
    version = check_engine_version(one.graph)
    return CacheKey(_bytes(one), one.graph.engine, version, cpu_fingerprint(), layout)


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
