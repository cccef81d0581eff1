"""Rank correlations and neighbours against numbers worked out by hand."""

import numpy as np
import pytest
from numpy.typing import NDArray

from embedding_validate import ranking


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


def test_compare() -> None:
    vectors = np.random.default_rng(0).standard_normal((30, 16)).astype(np.float32)
    same = ranking.compare(vectors, 3 * vectors)
    assert same is not None
    assert (same.texts, same.top_k, same.top_k_overlap) == (30, 10, 1.0)
    assert same.spearman == pytest.approx(1) and same.kendall == pytest.approx(1)
    assert same.top_k_overlap_ci95 == 0 and same.spearman_ci95 < 1e-6 and same.kendall_ci95 < 1e-3
    assert same.score_shift < 1e-5 and set(same.crossings.values()) == {0}
    noisy = ranking.compare(vectors, vectors + np.float32(0.7) * vectors[::-1])
    assert noisy is not None
    assert noisy.top_k_overlap < 0.9 and noisy.spearman < 0.95 and noisy.kendall < noisy.spearman
    each = [
        ranking.spearman(*np.delete(np.array([a, b]), i, axis=1)) for i, (a, b) in enumerate(_rows(vectors))
    ]
    assert noisy.spearman == pytest.approx(np.mean(each), abs=1e-5)
    assert noisy.spearman_ci95 == pytest.approx(1.96 * np.std(each, ddof=1) / np.sqrt(30), abs=1e-5)
    assert noisy.top_k_overlap_ci95 > 0.01 < noisy.kendall_ci95
    assert noisy.score_shift > 0.1 and sum(noisy.crossings.values()) > 0
    assert 200 < len(noisy.pairs) <= 435


def _rows(vectors: NDArray[np.float32]) -> "zip[tuple[NDArray[np.float64], NDArray[np.float64]]]":
    """Each text's cosines to all, before and after what `test_compare` adds."""

    def cosines(v: NDArray[np.float32]) -> NDArray[np.float64]:
        unit = v.astype(np.float64) / np.linalg.norm(v, axis=1, keepdims=True)
        return np.asarray(np.round(unit @ unit.T, 6), np.float64)

    return zip(cosines(vectors), cosines(vectors + np.float32(0.7) * vectors[::-1]), strict=True)


def test_few_texts_can_disagree() -> None:
    """Of three texts the nearest counts: two neighbours of two others are always the same."""
    angles = np.array([[0.0, 0.3, 1.0], [0.0, 0.3, 0.4]])
    a, b = (np.stack([np.cos(x), np.sin(x)], axis=1).astype(np.float32) for x in angles)
    found = ranking.compare(a, b)
    assert found is not None and found.top_k == 1
    assert found.top_k_overlap == pytest.approx(2 / 3), "the middle one's nearest is another"


def test_too_few() -> None:
    assert ranking.compare(np.ones((2, 4), np.float32), np.ones((2, 4), np.float32)) is None
