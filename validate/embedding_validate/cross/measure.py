"""Measures what a search loses if a server's bundle embeds the documents and a device's embeds the queries.

Documents are embedded in fp32 (or by PyTorch), queries by each graph of the device's bundle. Each search is
compared with the same search with fp32 on both sides, at every dim and vector precision.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embedding_runtime.bundle import BundleGraph, Graph, Manifest, bundle_graphs
from embedding_runtime.embedder import Embedder
from embedding_runtime.errors import EmbeddingError, InputError
from embedding_runtime.opening.selection import choose_graph
from embedding_validate.compare.corpus.corpus import Corpus
from embedding_validate.compare.corpus.scores import PRECISIONS, Embedded, Scores, Vectors, ndcg, scores
from embedding_validate.ladder.sets import SEARCH_SOURCE, numpy_search
from embedding_validate.measures.metrics import ci95
from embedding_validate.measures.ranking import TOP_K, neighbours, top_k_overlap
from embedding_validate.runners.calls import open_graph

Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One graph of the device, one dim, one vector precision; means over the queries.

    `overlap` is the share of the first `k` documents of the all-fp32 search, at the same dim and vector
    precision, that the mixed search also finds, ± `overlap_ci95`; `least` is the smallest share of a query.
    If the corpus has pairs that say what is right, `ndcg` is the mixed search's nDCG at 10 and `ndcg_fp32`
    that of the all-fp32 one.
    """

    graph: str
    dim: int
    vector_precision: str
    overlap: float
    overlap_ci95: float
    least: float
    ndcg: float | None
    ndcg_fp32: float | None


@dataclass(frozen=True)
class Cross:
    """All rows, and why graphs have none; `documents_by` names what embedded the documents."""

    documents_by: str
    k: int
    rows: tuple[Row, ...]
    failures: dict[str, str]


def read_packaged_corpus() -> Corpus:
    """The packaged corpus: NumPy's documentation."""
    search = numpy_search()
    relevant = tuple(frozenset({number}) for number in range(len(search.queries)))
    return Corpus(Path(SEARCH_SOURCE), search.documents, search.queries, relevant)


def check_bundles(server: Manifest, device: Manifest) -> None:
    """Refuse two bundles whose vectors cannot be compared.

    Raises:
        InputError: the message names both spaces.
    """
    if server.space_id != device.space_id:
        raise InputError(
            f"The server's bundle gives vectors of {server.source.name} (space {server.space_id[:12]}), the "
            f"device's those of {device.source.name} (space {device.space_id[:12]}). They cannot be "
            "searched together: export both from one checkpoint, with the same alphabet and tokens."
        )


def choose_exact_graph(server: Manifest) -> Graph:
    """The fp32 graph of the server's bundle.

    Raises:
        InputError: it has none.
        EngineError: its engine is not installed.
    """
    if not any(graph.precision == "fp32" for graph in server.graphs):
        have = ", ".join(graph.key for graph in server.graphs)
        raise InputError(
            f"The server's bundle has {have}; documents are embedded in fp32. Add it with export-embedding "
            "--add --precision fp32, or give the checkpoint as --reference."
        )
    return choose_graph(server, None, "fp32")


def embed(graph: BundleGraph, texts: Corpus) -> Embedded:
    """Queries and documents of a corpus by one graph, all components.

    Raises:
        EmbeddingError: the graph cannot be run.
    """
    with open_graph(graph) as embedder:
        embedder.truncate_dim = None
        documents = embedder.encode_document(list(texts.documents), normalize_embeddings=True)
        if texts.relevant is None:
            return Embedded(documents[: len(texts.asked)], documents, alike=True)
        return Embedded(_embed_queries(embedder, texts), documents, alike=False)


def measure(
    exact: Embedded,
    documents_by: str,
    bundle: Path,
    device: Manifest,
    texts: Corpus,
    dims: Sequence[int],
    say: Say,
) -> Cross:
    """Compare every graph of the device's bundle with the all-fp32 search `exact`."""
    queries: dict[str, Vectors] = {}
    failures: dict[str, str] = {}
    for graph in bundle_graphs(bundle, device):
        say(f"asking with {graph.key}")
        try:
            with open_graph(graph) as embedder:
                embedder.truncate_dim = None
                queries[graph.key] = _embed_queries(embedder, texts)
        except EmbeddingError as e:
            failures[graph.key] = str(e)
    rows = _rows(exact, queries, texts, dims)
    return Cross(documents_by, neighbours(texts.candidates), tuple(rows), failures)


def shared_dims(server: Manifest, device: Manifest) -> tuple[int, ...]:
    """Numbers of components that both bundles give, largest first."""
    both = [{m.embedding_dim, *m.dims} for m in (server, device)]
    return tuple(sorted(both[0] & both[1], reverse=True))


def _embed_queries(embedder: Embedder, texts: Corpus) -> Vectors:
    """Vectors (Q, D) of the corpus' queries, or of documents whose neighbours are searched."""
    encode = embedder.encode_document if texts.relevant is None else embedder.encode_query
    return np.asarray(encode(list(texts.asked), normalize_embeddings=True), dtype=np.float32)


def _rows(
    exact: Embedded, queries_by_graph: Mapping[str, Vectors], texts: Corpus, dims: Sequence[int]
) -> list[Row]:
    """The rows, graph after graph; the all-fp32 search is scored once for all graphs."""
    by_graph: dict[str, list[Row]] = {key: [] for key in queries_by_graph}
    for dim in dims:
        both = exact.cut(dim)
        for precision in PRECISIONS:
            expected = scores(both, precision)
            for key, queries in queries_by_graph.items():
                mixed = Embedded(queries, exact.documents, exact.alike).cut(dim)
                by_graph[key].append(_row(key, dim, precision, expected, scores(mixed, precision), texts))
    return [row for rows in by_graph.values() for row in rows]


def _row(key: str, dim: int, precision: str, expected: Scores, scored: Scores, texts: Corpus) -> Row:
    k, relevant = neighbours(texts.candidates), texts.relevant
    shares = [top_k_overlap(a, b, k) for a, b in zip(expected, scored, strict=True)]
    return Row(
        graph=key,
        dim=dim,
        vector_precision=precision,
        overlap=float(np.mean(shares)),
        overlap_ci95=ci95(shares),
        least=min(shares),
        ndcg=None if relevant is None else ndcg(scored, relevant, TOP_K),
        ndcg_fp32=None if relevant is None else ndcg(expected, relevant, TOP_K),
    )
