"""Compares how two sets of vectors rank and score the same texts: pure functions of the vectors.

A search depends on the order of results, about which thresholds on vectors say nothing.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedding_validate.measures.metrics import ci95, unit

Vectors = NDArray[np.float32]
Scores = NDArray[np.float64]
Mask = NDArray[np.bool_]

TOP_K = 10
# Similarity thresholds at which users cut; the shift is how many pairs fall on the other side.
_CUTS = (0.3, 0.5, 0.7, 0.9)
_MOST_PAIRS = 400


@dataclass(frozen=True)
class Ranking:
    """Each query's documents by cosine, in the reference and in the bundle.

    `top_k_overlap` is the mean share of the reference's `top_k` documents among the bundle's; `spearman` and
    `kendall` are means over queries of the rank correlations of all scores; each mean ± its `..._ci95`
    (`metrics.ci95`).
    """

    queries: int
    documents: int
    top_k: int
    top_k_overlap: float
    spearman: float
    kendall: float
    top_k_overlap_ci95: float
    spearman_ci95: float
    kendall_ci95: float


@dataclass(frozen=True)
class ScoreShift:
    """The cosines of all pairs of texts, in the reference and in the bundle.

    `largest` is the largest absolute difference of a score; `crossings` counts, for each cut, the pairs that
    moved to its other side; `pairs` holds (reference, bundle) scores, evenly sampled.
    """

    texts: int
    largest: float
    crossings: dict[str, int]
    pairs: tuple[tuple[float, float], ...]


def neighbours(candidates: int) -> int:
    """How many of a text's `candidates` count as results: `TOP_K`, or half of them if that is fewer, but at
    least one.

    With few candidates, the first `TOP_K` would be all of them, in any order.
    """
    return min(TOP_K, max(1, candidates // 2))


def compare(
    reference: tuple[Vectors, Vectors], actual: tuple[Vectors, Vectors], candidates: Mask
) -> Ranking | None:
    """Rankings of documents (d, dim) for queries (q, dim), given as (queries, documents).

    `candidates` (q, d) says which documents a query ranks. Returns None if no query has two or more of them.
    """
    expected, scores = _cosines(*reference), _cosines(*actual)
    both = [(a[m], b[m]) for a, b, m in zip(expected, scores, candidates, strict=True) if m.sum() > 1]
    if not both:
        return None
    k = neighbours(min(len(a) for a, _ in both))
    overlaps = [top_k_overlap(a, b, k) for a, b in both]
    spearmans, kendalls = [spearman(a, b) for a, b in both], [kendall(a, b) for a, b in both]
    return Ranking(
        queries=len(both),
        documents=len(reference[1]),
        top_k=k,
        top_k_overlap=float(np.mean(overlaps)),
        spearman=float(np.mean(spearmans)),
        kendall=float(np.mean(kendalls)),
        top_k_overlap_ci95=ci95(overlaps),
        spearman_ci95=ci95(spearmans),
        kendall_ci95=ci95(kendalls),
    )


def score_shift(reference: Vectors, actual: Vectors) -> ScoreShift | None:
    """Scores of the same texts with each other, vectors (n, dim) each; None for fewer than two texts."""
    n = len(reference)
    if n < 2:
        return None
    upper = np.triu_indices(n, 1)
    a, b = _cosines(reference, reference)[upper], _cosines(actual, actual)[upper]
    step = max(1, len(a) // _MOST_PAIRS)
    return ScoreShift(
        texts=n,
        largest=float(np.abs(a - b).max()),
        crossings={str(cut): int(np.sum((a >= cut) != (b >= cut))) for cut in _CUTS},
        pairs=tuple(
            (round(float(x), 5), round(float(y), 5)) for x, y in zip(a[::step], b[::step], strict=True)
        ),
    )


def top_k_overlap(a: Scores, b: Scores, k: int) -> float:
    """|top k of a ∩ top k of b| / k; ties are broken by position in both."""
    top = [set(np.argsort(-scores, kind="stable")[:k].tolist()) for scores in (a, b)]
    return len(top[0] & top[1]) / k


def spearman(a: Scores, b: Scores) -> float:
    """Pearson correlation of the ranks, where ties get their mean rank; 1 if neither varies."""
    x, y = _ranks(a), _ranks(b)
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale else float(np.array_equal(x, y))


def kendall(a: Scores, b: Scores) -> float:
    """Kendall's τ-b: (concordant − discordant) / √((pairs − ties in a)(pairs − ties in b))."""
    i, j = np.triu_indices(len(a), 1)
    x, y = np.sign(a[i] - a[j]), np.sign(b[i] - b[j])
    scale = float(np.sqrt(np.sum(x != 0) * np.sum(y != 0)))
    return float(x @ y) / scale if scale else float(np.array_equal(x, y))


def _cosines(a: Vectors, b: Vectors) -> Scores:
    """(n, m) cosines of vectors (n, dim) and (m, dim)."""
    x, y = unit(a), unit(b)
    # Rounded far below what counts, so that exact ties in one set are ties in the other.
    return np.asarray(np.round(x @ y.T, 6), dtype=np.float64)


def _ranks(values: Scores) -> Scores:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], dtype=np.float64)
