"""Rank correlations and neighbours against numbers worked out by hand."""

import numpy as np
import pytest
from numpy.typing import NDArray

from embedding_validate.measures import ranking


def scores(*values: float) -> NDArray[np.float64]:
    return np.array(values, dtype=np.float64)


def test_top_k_overlap() -> None:
    a, b = scores(0.9, 0.8, 0.7, 0.1), scores(0.9, 0.2, 0.7, 0.8)
    assert ranking.top_k_overlap(a, b, 2) == 0.5
    assert ranking.top_k_overlap(a, b, 4) == 1


def test_spearman() -> None:
    assert ranking.spearman(scores(1, 2, 3, 4), scores(10, 20, 30, 99)) == pytest.approx(1)
    assert ranking.spearman(scores(1, 2, 3, 4), scores(4, 3, 2, 1)) == pytest.approx(-1)
    # Rank differences 0, 1, -1, 0: 1 - 6 * 2 / (4 * 15).
    assert ranking.spearman(scores(1, 2, 3, 4), scores(1, 3, 2, 4)) == pytest.approx(0.8)
    # Ties share their mean rank: ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
    assert ranking.spearman(scores(1, 2, 2, 4), scores(1, 2, 3, 4)) == pytest.approx(4.5 / np.sqrt(4.5 * 5))


def test_kendall() -> None:
    assert ranking.kendall(scores(1, 2, 3), scores(2, 3, 4)) == pytest.approx(1)
    # Of three pairs two agree and one does not.
    assert ranking.kendall(scores(1, 2, 3), scores(1, 3, 2)) == pytest.approx(1 / 3)
    # One pair tied in a: 2 concordant of sqrt(2 * 3).
    assert ranking.kendall(scores(1, 1, 3), scores(1, 2, 3)) == pytest.approx(2 / np.sqrt(6))


def test_no_variation() -> None:
    assert ranking.spearman(scores(1, 1), scores(2, 2)) == ranking.kendall(scores(1, 1), scores(2, 2)) == 1
    assert ranking.spearman(scores(1, 1), scores(1, 2)) == ranking.kendall(scores(1, 1), scores(1, 2)) == 0


def random(count: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, 16)).astype(np.float32)


def everything(queries: int, documents: int) -> NDArray[np.bool_]:
    return np.ones((queries, documents), np.bool_)


def test_compare() -> None:
    queries, documents = random(12, 0), random(30, 1)
    same = ranking.compare((queries, documents), (3 * queries, 2 * documents), everything(12, 30))
    assert same is not None
    assert (same.queries, same.documents, same.top_k, same.top_k_overlap) == (12, 30, 10, 1.0)
    assert same.spearman == pytest.approx(1) and same.kendall == pytest.approx(1)
    assert same.top_k_overlap_ci95 == 0 and same.spearman_ci95 < 1e-6 and same.kendall_ci95 < 1e-3
    other = documents + np.float32(0.7) * documents[::-1]
    noisy = ranking.compare((queries, documents), (queries, other), everything(12, 30))
    assert noisy is not None
    assert noisy.top_k_overlap < 0.9 and noisy.spearman < 0.95 and noisy.kendall < noisy.spearman
    rows = zip(_cosines(queries, documents), _cosines(queries, other), strict=True)
    each = [ranking.spearman(a, b) for a, b in rows]
    assert noisy.spearman == pytest.approx(np.mean(each), abs=1e-5)
    assert noisy.spearman_ci95 == pytest.approx(1.96 * np.std(each, ddof=1) / np.sqrt(12), abs=1e-5)
    assert noisy.top_k_overlap_ci95 > 0.01 < noisy.kendall_ci95


def _cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    x, y = (v.astype(np.float64) / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
    return np.asarray(np.round(x @ y.T, 6), np.float64)


def test_what_a_query_does_not_rank() -> None:
    """A document that a query leaves out counts in neither: only it changes here."""
    queries, documents = random(1, 0), random(4, 1)
    other = documents.copy()
    other[2] = -other[2]
    candidates = np.array([[True, True, False, True]])
    kept = ranking.compare((queries, documents), (queries, other), candidates)
    assert kept is not None and kept.top_k == 1 and kept.spearman == kept.top_k_overlap == 1
    changed = ranking.compare((queries, documents), (queries, other), everything(1, 4))
    assert changed is not None and changed.spearman < 1


def test_few_documents_can_disagree() -> None:
    """Of two documents the nearer one counts: two of two are always the same."""
    angles = (0.0, 0.3, 1.0), (0.0, 0.5, 0.4)
    a, b = (np.stack([np.cos(x), np.sin(x)], axis=1).astype(np.float32) for x in angles)
    found = ranking.compare((a[:1], a[1:]), (b[:1], b[1:]), everything(1, 2))
    assert found is not None and (found.top_k, found.top_k_overlap) == (1, 0)


@pytest.mark.parametrize(("candidates", "k"), [(1, 1), (2, 1), (3, 1), (9, 4), (20, 10), (500, 10)])
def test_neighbours(candidates: int, k: int) -> None:
    assert ranking.neighbours(candidates) == k


def test_score_shift() -> None:
    vectors = random(30, 0)
    same = ranking.score_shift(vectors, 3 * vectors)
    assert same is not None
    assert same.texts == 30 and same.largest < 1e-5 and set(same.crossings.values()) == {0}
    noisy = ranking.score_shift(vectors, vectors + np.float32(0.7) * vectors[::-1])
    assert noisy is not None
    assert noisy.largest > 0.1 and sum(noisy.crossings.values()) > 0
    assert 200 < len(noisy.pairs) <= 435


def test_too_few() -> None:
    one, three = random(1, 0), random(3, 1)
    assert ranking.score_shift(one, one) is None
    assert ranking.compare((three, one), (three, one), everything(3, 1)) is None
