"""Whether a bundle ranks texts as the reference does: pure functions of two sets of vectors.

Knows nothing of bundles or thresholds: order matters to a search, and thresholds say nothing of it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedding_validate.metrics import ci95

Vectors = NDArray[np.float32]
Scores = NDArray[np.float64]

TOP_K = 10
# Similarity thresholds at which users cut; the shift is how many pairs fall on the other side.
_CUTS = (0.3, 0.5, 0.7, 0.9)
_MOST_PAIRS = 400


@dataclass(frozen=True)
class Ranking:
    """Each text against all others, by cosine, in the reference and in the bundle.

    `top_k_overlap` is the mean share of the reference's `top_k` neighbours among the bundle's, TOP_K or half
    of the other texts; `spearman` and `kendall` are means over texts of the rank correlations of all scores;
    each mean ± its `..._ci95` (`metrics.ci95`). `score_shift` is the largest absolute difference of a score;
    `crossings` counts the pairs that lie on another side of a cut, by cut; `pairs` holds (reference, bundle)
    scores, evenly sampled.
    """

    texts: int
    top_k: int
    top_k_overlap: float
    spearman: float
    kendall: float
    score_shift: float
    crossings: dict[str, int]
    pairs: tuple[tuple[float, float], ...]
    top_k_overlap_ci95: float
    spearman_ci95: float
    kendall_ci95: float


def compare(reference: Vectors, found: Vectors) -> Ranking | None:
    """Rankings of the same texts, vectors (n, dim) each; None for fewer than three texts."""
    n = len(reference)
    if n < 3:
        return None
    expected, scores = _others(reference), _others(found)
    k = min(TOP_K, max(1, (n - 1) // 2))  # of few texts, all of them would be neighbours
    upper = np.triu_indices(n, 1)
    a, b = _cosines(reference)[upper], _cosines(found)[upper]
    step = max(1, len(a) // _MOST_PAIRS)
    both = list(zip(expected, scores, strict=True))
    overlaps = [top_k_overlap(x, y, k) for x, y in both]
    spearmans, kendalls = [spearman(x, y) for x, y in both], [kendall(x, y) for x, y in both]
    return Ranking(
        texts=n,
        top_k=k,
        top_k_overlap=float(np.mean(overlaps)),
        spearman=float(np.mean(spearmans)),
        kendall=float(np.mean(kendalls)),
        top_k_overlap_ci95=ci95(overlaps),
        spearman_ci95=ci95(spearmans),
        kendall_ci95=ci95(kendalls),
        score_shift=float(np.abs(a - b).max()),
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
    """Pearson correlation of the ranks, ties given their mean rank; 1 where neither varies."""
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


def _cosines(vectors: Vectors) -> Scores:
    v = vectors.astype(np.float64)
    v = v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12)
    # Rounded far below what counts, so that exact ties in one set are ties in the other.
    return np.asarray(np.round(v @ v.T, 6), dtype=np.float64)


def _others(vectors: Vectors) -> list[Scores]:
    """For each text its scores against all others."""
    scores = _cosines(vectors)
    return [np.delete(row, i) for i, row in enumerate(scores)]


def _ranks(values: Scores) -> Scores:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], dtype=np.float64)
