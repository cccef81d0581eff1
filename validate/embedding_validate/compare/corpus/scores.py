"""Measures what dims and precisions of vectors cost a search on a user's texts: pure functions of vectors.

Scores are those of a vector database: stored documents have some dim and precision, queries are not rounded.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.quantization import VectorPrecision, quantization_ranges, quantize_embeddings
from embedding_validate.compare.document.document import CorpusCost
from embedding_validate.measures.metrics import normalized
from embedding_validate.measures.ranking import TOP_K, spearman, top_k_overlap

PRECISIONS: tuple[VectorPrecision, ...] = ("float32", "int8", "ubinary")
# Shown of each graph and dim.
MOST_CHANGED = 10

Vectors = NDArray[np.float32]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Embedded:
    """Vectors of queries (Q, D) and documents (N, D); `alike` says that query i is document i, which then
    does not count as its own answer."""

    queries: Vectors
    documents: Vectors
    alike: bool

    def cut(self, dim: int) -> "Embedded":
        """The first components, of length 1 again."""
        return Embedded(normalized(self.queries[:, :dim]), normalized(self.documents[:, :dim]), self.alike)


@dataclass(frozen=True)
class Changed:
    """One text whose first answer or top k differs from the base's; documents are given by index."""

    query: int
    before: tuple[int, ...]
    after: tuple[int, ...]
    overlap: float


def scores(embedded: Embedded, precision: VectorPrecision) -> Scores:
    """(Q, N): cosines with the stored vectors; of binary ones, the share of equal signs."""
    if precision == "float32":
        result = embedded.queries.astype(np.float64) @ embedded.documents.astype(np.float64).T
    elif precision == "int8":
        result = embedded.queries.astype(np.float64) @ _decoded(embedded.documents).T
    else:
        queries, stored = (np.where(v > 0, 1.0, -1.0) for v in (embedded.queries, embedded.documents))
        result = queries @ stored.T / embedded.queries.shape[1]
    # Rounded far below what counts, so that exact ties in one set are ties in the other.
    rounded: Scores = np.round(result, 6)
    if embedded.alike:
        rounded[np.arange(len(rounded)), np.arange(len(rounded))] = -np.inf
    return rounded


def cost(
    base: Scores,
    embedded: Embedded,
    system: str,
    precision: VectorPrecision,
    relevant: Sequence[frozenset[int]],
    k: int,
) -> CorpusCost:
    """One line of the comparison; `relevant` is empty if there are no pairs, `k` is the overlap's."""
    scored, (queries, documents) = scores(embedded, precision), base.shape
    keep = np.isfinite(base)
    rows = [(base[i][keep[i]], scored[i][keep[i]]) for i in range(queries)]
    shift = np.abs(base[keep] - scored[keep]) if precision != "ubinary" else None
    dim = embedded.documents.shape[1]
    each = {"float32": 4 * dim, "int8": dim}.get(precision, (dim + 7) // 8)
    return CorpusCost(
        system=system,
        dim=dim,
        vector_precision=precision,
        overlap=float(np.mean([top_k_overlap(a, b, k) for a, b in rows])),
        spearman=float(np.mean([spearman(a, b) for a, b in rows])),
        shift_mean=None if shift is None else float(shift.mean()),
        shift_most=None if shift is None else float(shift.max()),
        ndcg=ndcg(scored, relevant, TOP_K) if relevant else None,
        bytes_per_vector=each,
        index_bytes=each * documents,
    )


def ndcg(scored: Scores, relevant: Sequence[frozenset[int]], k: int) -> float:
    """Mean of DCG / ideal DCG at k with binary relevance: DCG = Σ 1 / log2(rank + 1)."""
    discount = 1 / np.log2(np.arange(2, k + 2))
    shares = []
    for row, right in zip(scored, relevant, strict=True):
        hits = np.isin(top(row, k), list(right))
        shares.append(float(discount[: len(hits)] @ hits) / float(discount[: min(k, len(right))].sum()))
    return float(np.mean(shares))


def changed(base: Scores, scored: Scores, k: int) -> list[Changed]:
    """The texts that changed most, worst first: those with another first answer, then by overlap."""
    changes = []
    for i, (a, b) in enumerate(zip(base, scored, strict=True)):
        before, after = top(a, k), top(b, k)
        share = len(set(before) & set(after)) / max(1, len(before))
        if before[0] != after[0] or share < 1:
            changes.append(Changed(i, tuple(map(int, before)), tuple(map(int, after)), share))
    return sorted(changes, key=lambda c: (c.before[0] == c.after[0], c.overlap))


def top(row: Scores, k: int) -> NDArray[np.intp]:
    """Indices of the k best finite scores, best first; ties by position."""
    order = np.argsort(-row, kind="stable")
    return order[: min(k, int(np.isfinite(row).sum()))]


def _decoded(vectors: Vectors) -> Scores:
    """The values of int8 vectors, by the ranges of these same documents: the middle of each step."""
    ranges = quantization_ranges(vectors)
    low, high = ranges.astype(np.float64)
    codes = quantize_embeddings(vectors, "int8", ranges).astype(np.float64)
    return np.asarray((codes + 128.5) * (high - low) / 255 + low)
