"""`validate-embedding --cross`: two bundles in, `cross.json` and `cross.html` in the device's bundle out."""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from embedding_runtime.bundle import BundleGraph, Manifest, load_manifest
from embedding_validate.compare.corpus import corpus
from embedding_validate.compare.corpus.corpus import Corpus
from embedding_validate.compare.corpus.run import embed_with_reference
from embedding_validate.cross import page
from embedding_validate.cross.measure import (
    Cross,
    Row,
    check_bundles,
    choose_exact_graph,
    embed,
    measure,
    read_packaged_corpus,
    shared_dims,
)
from embedding_validate.files import replace_text
from embedding_validate.machine import versions
from embedding_validate.report.template import ReportError

JSON = "cross.json"
SCHEMA_VERSION = 1

Say = Callable[[str], None]


def run(options: argparse.Namespace, require_weights: Callable[[Manifest, str], None], say: Say) -> int:
    """The command's body; returns 0, or 1 if a graph finds less than required or cannot be run.

    `require_weights` refuses a checkpoint that is not the bundle's.

    Raises:
        EmbeddingError: a bundle, the corpus or the checkpoint cannot be used.  OSError: a file cannot be
            written.
    """
    server, device = options.cross
    manifests = load_manifest(server), load_manifest(device)
    check_bundles(*manifests)
    texts = corpus.read(options.corpus) if options.corpus else read_packaged_corpus()
    if options.reference:
        require_weights(manifests[0], options.reference)
        say(f"embedding {len(texts.documents)} documents with PyTorch")
        longest = manifests[0].max_seq_length
        exact, by = embed_with_reference(options.reference, texts, longest), "torch/fp32"
    else:
        graph = choose_exact_graph(manifests[0])
        say(f"embedding {len(texts.documents)} documents with {graph.key}")
        exact, by = embed(BundleGraph(server, manifests[0], graph), texts), graph.key
    cross = measure(exact, by, device, manifests[1], texts, shared_dims(*manifests), say)
    document = _document(cross, options, manifests[0], texts)
    for line in lines(cross, options.min_overlap):
        say(line)
    if options.json:
        print(json.dumps(document, indent=1, ensure_ascii=False))  # noqa: T201 (what --json asks for)
    _write(device, document, say)
    return 0 if document["passed"] else 1


def lines(cross: Cross, min_overlap: float | None) -> list[str]:
    """The result as text."""
    shown = [
        f"{row.graph} dim {row.dim} {row.vector_precision}: top {cross.k} overlap {row.overlap:.4f}"
        + ("" if row.ndcg is None else f", nDCG@10 {row.ndcg:.4f} (all fp32: {row.ndcg_fp32:.4f})")
        + (" TOO LITTLE" if row in find_short_rows(cross.rows, min_overlap) else "")
        for row in cross.rows
    ]
    return [*shown, *(f"{key}: {reason}" for key, reason in cross.failures.items())]


def find_short_rows(rows: Sequence[Row], min_overlap: float | None) -> list[Row]:
    """The rows whose overlap is less than required."""
    return [] if min_overlap is None else [row for row in rows if row.overlap < min_overlap]


def _document(cross: Cross, options: argparse.Namespace, server: Manifest, texts: Corpus) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "passed": not find_short_rows(cross.rows, options.min_overlap) and not cross.failures,
        "min_overlap": options.min_overlap,
        "model": server.source.name,
        "space_id": server.space_id,
        "server": str(options.cross[0]),
        "device": str(options.cross[1]),
        "corpus": {
            "name": str(texts.path),
            "documents": len(texts.documents),
            "asked": len(texts.asked),
            "pairs": texts.relevant is not None,
        },
        "versions": versions(),
        **asdict(cross),
    }


def _write(device: Path, document: dict[str, Any], say: Say) -> None:
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    say(f"wrote {replace_text(device / JSON, text)}")
    try:
        say(f"wrote {replace_text(device / page.HTML, page.render(document))}")
    except ReportError as e:
        (device / page.HTML).unlink(missing_ok=True)  # an older page would contradict cross.json
        say(f"no {page.HTML}: {e}")
