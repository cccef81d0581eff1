"""What vectors do to a search on one's own texts: pure functions of vectors, no models, no files.

Scores are those of a vector database: stored documents in some dim and precision, queries as they come.
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
    """Vectors of those that ask (Q, D) and of documents (N, D); `alike` says that query i is document i,
    which is then no answer to itself."""

    asked: Vectors
    documents: Vectors
    alike: bool

    def cut(self, dim: int) -> "Embedded":
        """The first components, of length 1 again."""
        return Embedded(normalized(self.asked[:, :dim]), normalized(self.documents[:, :dim]), self.alike)


@dataclass(frozen=True)
class Changed:
    """One text whose first answer, or whose top k, is another than the base's; indices of documents."""

    asked: int
    before: tuple[int, ...]
    after: tuple[int, ...]
    overlap: float


def scores(found: Embedded, precision: VectorPrecision) -> Scores:
    """(Q, N): cosines with the stored vectors; of binary ones, the share of equal signs."""
    if precision == "float32":
        result = found.asked.astype(np.float64) @ found.documents.astype(np.float64).T
    elif precision == "int8":
        result = found.asked.astype(np.float64) @ _decoded(found.documents).T
    else:
        asked, stored = (np.where(v > 0, 1.0, -1.0) for v in (found.asked, found.documents))
        result = asked @ stored.T / found.asked.shape[1]
    # Rounded far below what counts, so that exact ties in one set are ties in the other.
    rounded: Scores = np.round(result, 6)
    if found.alike:
        rounded[np.arange(len(rounded)), np.arange(len(rounded))] = -np.inf
    return rounded


def cost(
    base: Scores,
    found: Embedded,
    system: str,
    precision: VectorPrecision,
    relevant: Sequence[frozenset[int]],
    k: int,
) -> CorpusCost:
    """One line of the comparison; `relevant` is empty where there are no pairs, `k` is the overlap's."""
    scored, (queries, documents) = scores(found, precision), base.shape
    keep = np.isfinite(base)
    rows = [(base[i][keep[i]], scored[i][keep[i]]) for i in range(queries)]
    shift = np.abs(base[keep] - scored[keep]) if precision != "ubinary" else None
    dim = found.documents.shape[1]
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
    found = []
    for row, wanted in zip(scored, relevant, strict=True):
        hits = np.isin(top(row, k), list(wanted))
        found.append(float(discount[: len(hits)] @ hits) / float(discount[: min(k, len(wanted))].sum()))
    return float(np.mean(found))


def changed(base: Scores, scored: Scores, k: int) -> list[Changed]:
    """The texts that changed most, worst first: those with another first answer, then by overlap."""
    found = []
    for i, (a, b) in enumerate(zip(base, scored, strict=True)):
        before, after = top(a, k), top(b, k)
        share = len(set(before) & set(after)) / max(1, len(before))
        if before[0] != after[0] or share < 1:
            found.append(Changed(i, tuple(map(int, before)), tuple(map(int, after)), share))
    return sorted(found, key=lambda c: (c.before[0] == c.after[0], c.overlap))


def top(row: Scores, k: int) -> NDArray[np.intp]:
    """Indices of the k best finite scores, best first; ties by position."""
    order = np.argsort(-row, kind="stable")
    return order[: min(k, int(np.isfinite(row).sum()))]


def _decoded(vectors: Vectors) -> Scores:
    """What int8 vectors, with the ranges of these very documents, stand for: the middle of each step."""
    ranges = quantization_ranges(vectors)
    low, high = ranges.astype(np.float64)
    codes = quantize_embeddings(vectors, "int8", ranges).astype(np.float64)
    return np.asarray((codes + 128.5) * (high - low) / 255 + low)
