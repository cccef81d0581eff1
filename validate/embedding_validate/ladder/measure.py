"""Measures a bundle's ladder: quality through the public `Embedder`, cost by the comparison's harness."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from embedding_export.checkpoint.checkpoint import Checkpoint
from embedding_runtime import Embedder
from embedding_runtime.bundle import Manifest, load_manifest
from embedding_runtime.console import INTERRUPTED
from embedding_validate.compare import cli as compare
from embedding_validate.compare.document import figures
from embedding_validate.compare.document import store as compare_store
from embedding_validate.compare.document.document import Run
from embedding_validate.ladder.document import Cost, Ladder, Rung
from embedding_validate.ladder.quality import Embedded, Quality, Vectors, embed, measure
from embedding_validate.ladder.sets import SEARCH_LICENCE, SEARCH_SOURCE, Pairs, Search
from embedding_validate.machine import machine, versions
from embedding_validate.reference.reference import use_reference

REFERENCE = "torch fp32"
_BATCH = 16

Say = Callable[[str], None]


def measure_quality(
    bundle: Path, checkpoint: Checkpoint, pairs: Pairs | None, search: Search, say: Say
) -> dict[str, tuple[Quality, ...]]:
    """Quality of the reference and of every graph of a bundle at the bundle's dims, by name."""
    manifest = load_manifest(bundle)
    dims = sorted(manifest.dims, reverse=True)
    say(f"embedding with the reference of {checkpoint.source.name}")
    base = use_reference(
        checkpoint,
        lambda reference: embed(lambda t, p: reference.encode(t, prompt_name=p), pairs, search),
    )
    by_graph = {REFERENCE: _at_dims(base, base, dims, pairs)}
    for graph in manifest.graphs:
        say(f"embedding with {graph.key}")
        with Embedder.load(
            bundle,
            format=graph.format,
            precision=graph.precision,
            allow_failed=True,  # the page names it
        ) as embedder:
            embedder.truncate_dim = None
            by_graph[graph.key] = _at_dims(embed(_encoder(embedder), pairs, search), base, dims, pairs)
    return by_graph


def measure_cost(
    bundle: Path, checkpoint: Path, output: Path, lengths: str, threads: int, resume: bool
) -> Run:
    """The comparison's run of every graph and the reference; see `compare`.

    Raises:
        EmbeddingError: as `compare`.  KeyboardInterrupt: it was interrupted.
    """
    arguments = [str(bundle), "--reference", str(checkpoint), "--output", str(output)]
    arguments += ["--threads", str(threads), "--lengths", lengths]
    if compare.compare([*arguments, "--resume"] if resume else arguments) == INTERRUPTED:
        raise KeyboardInterrupt
    return compare_store.load(output / compare_store.JSON).measured[0]


def graphs_at_fault(run: Run) -> list[str]:
    """The graphs of a comparison's run that ended badly or are wrong, each with the reason."""
    ours = figures.graphs(run)
    ended = [f"{name}: {f.reason} ({f.where})" for name in ours for f in figures.failures(run, name)]
    wrong = [f"{name}: {why}" for name in ours if (why := figures.wrong(run, name))]
    return [*ended, *wrong]


def assemble(
    bundle: Path,
    quality: dict[str, tuple[Quality, ...]],
    run: Run,
    pairs: tuple[str, Pairs] | None,
    search: Search,
) -> Ladder:
    """The document; `pairs` come with the name of their file."""
    manifest = load_manifest(bundle)
    threads = max(run.plan.threads)
    about = {"source": SEARCH_SOURCE, "licence": SEARCH_LICENCE}
    of_workers = {name: version for o in run.openings for name, version in o.versions.items()}
    return Ladder(
        checkpoint=manifest.source.name,
        weights_sha256=manifest.source.weights_sha256,
        random_weights=manifest.source.random_weights,
        parameters=manifest.architecture.parameters,
        machine={**machine(), "features": run.machine.features},
        versions={**versions(), **of_workers},
        date=datetime.now(UTC).date().isoformat(),
        threads=threads,
        pairs=None if pairs is None else {"file": pairs[0], "pairs": len(pairs[1].scores), "prompt": "STS"},
        search={**about, "queries": len(search.queries), "documents": len(search.documents)},
        rungs=tuple(
            Rung(name, _verdict(manifest, name), by_dim, _cost(run, name, threads))
            for name, by_dim in quality.items()
        ),
    )


def _at_dims(
    embedded: Embedded, base: Embedded, dims: Sequence[int], pairs: Pairs | None
) -> tuple[Quality, ...]:
    return tuple(measure(embedded, base, dim, pairs) for dim in dims)


def _encoder(embedder: Embedder) -> Callable[[Sequence[str], str], Vectors]:
    def encode(texts: Sequence[str], prompt: str) -> Vectors:
        vectors = embedder.encode(list(texts), prompt_name=prompt, batch_size=_BATCH)
        return np.asarray(vectors, np.float32)

    return encode


def _verdict(manifest: Manifest, name: str) -> str:
    return next((g.parity.status for g in manifest.graphs if g.key == name), "the reference")


def _cost(run: Run, name: str, threads: int) -> Cost:
    if name not in figures.systems(run):
        return Cost(None, None, None, None, None, {}, ())
    memory, opening = figures.memory(run, name), figures.opening(run, name, threads)
    cases = [c for c in figures.cases(run, name, threads) if c.batch == 1]
    megabytes = {kind: kb / 1024 for kind, kb in memory.items()}
    return Cost(
        bytes=figures.graph_bytes(run, name),
        first_load_s=None if opening is None else opening.first_s,
        load_s=figures.warm_load(run, name),
        anonymous_mb=megabytes.get("anonymous_peak"),
        mapped_mb=megabytes.get("file_peak"),
        median_ms={str(c.tokens): c.median_ms for c in cases if c.median_ms is not None},
        noisy=tuple(str(c.tokens) for c in cases if c.noise),
    )
