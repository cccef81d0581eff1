"""Opening a bundle: every check between a folder's name and a graph that may be run. Encodes nothing."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embedding_runtime.bundle import Graph, Manifest, load_manifest
from embedding_runtime.cpu import cpu_fingerprint
from embedding_runtime.errors import InputError
from embedding_runtime.golden import check_golden_ids, check_golden_vectors
from embedding_runtime.integrity import Stamps, Verify, verify_files
from embedding_runtime.onnx_session import OnnxSession, check_engine_version
from embedding_runtime.selection import check_parity, choose_graph
from embedding_runtime.stream import pad
from embedding_runtime.threads import resolve_threads
from embedding_runtime.tokenizer import Tokenizer, open_tokenizer
from embedding_runtime.vectors import Floats


@dataclass(frozen=True)
class Choice:
    """Which graph to open and how; see `Embedder.load`."""

    format: str | None = None
    precision: str | None = None
    threads: int | None = None
    verify: Verify = "cached"
    allow_failed: bool = False


@dataclass(frozen=True)
class Opened:
    """A bundle whose files, tokenizer and chosen graph have passed their checks."""

    path: Path
    manifest: Manifest
    graph: Graph
    tokenizer: Tokenizer
    session: OnnxSession

    def check_golden(self) -> float:
        """Largest absolute difference to the golden vectors.

        Raises:
            BundleError: it passes the tolerance.
        """
        return check_golden_vectors(self.graph, self._vector)

    def _vector(self, ids: tuple[int, ...]) -> Floats:
        batch, mask = pad([np.array(ids, dtype=np.int32)], self.manifest.tokenizer.pad_id)
        vector: Floats = self.session.run(batch, mask, ("sentence_embedding",))[0][0]
        return vector


def open_bundle(path: Path, choice: Choice) -> Opened:
    """Open a bundle, in the order manifest, verdict, files, tokenizer, graph, golden vectors.

    Raises:
        BundleError: damaged, changed, found wrong, or off from what it gave at export.
        EngineError: the engine is missing, too old, or does not load the graph.
        InputError: no such graph, or a bad value in `choice`.
    """
    if choice.verify not in ("cached", "always"):
        raise InputError(f"verify is {choice.verify!r}; expected 'cached' or 'always'.")
    threads = resolve_threads(choice.threads)
    manifest = load_manifest(path)
    graph = choose_graph(manifest, choice.format, choice.precision)
    check_parity(path, graph, choice.allow_failed)
    version = check_engine_version(graph)
    stamps, before = Stamps.read(path), Stamps.read(path)
    names = (manifest.tokenizer.file, graph.file, *graph.external_data)
    verify_files(path, manifest, names, stamps, choice.verify)
    tokenizer = open_tokenizer(path, manifest.tokenizer)
    check_golden_ids(tokenizer, manifest.tokenizer)
    opened = Opened(path, manifest, graph, tokenizer, OnnxSession(path / graph.file, threads))
    passed = f"{graph.variant_id} {cpu_fingerprint()} {version}"
    if not choice.allow_failed and (choice.verify == "always" or passed not in stamps.golden):
        opened.check_golden()
        stamps.golden = [*(g for g in stamps.golden if g != passed), passed]
    if stamps != before:
        stamps.write()
    return opened
