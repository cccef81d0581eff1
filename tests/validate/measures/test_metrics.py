"""The metrics against numbers worked out by hand."""

import math

import numpy as np
import pytest

from embedding_runtime.errors import InputError
from embedding_validate.measures import metrics
from embedding_validate.measures.metrics import Figures
from embedding_validate.measures.thresholds import LOSS, threshold


def vector(*values: float) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    return np.array(values, dtype=np.float32)


def test_cosine() -> None:
    assert metrics.cosine(vector(3, 4), vector(4, 3)) == pytest.approx(24 / 25)
    assert metrics.cosine(vector(1, 0), vector(-2, 0)) == pytest.approx(-1)
    assert metrics.cosine(vector(0, 0), vector(1, 1)) == 0
    assert math.isnan(metrics.cosine(vector(math.nan, 1), vector(1, 1)))


def test_cosine_keeps_small_angles() -> None:
    """In float32 1 - 5e-9 is 1; sums in float64 keep it apart."""
    assert 0 < 1 - metrics.cosine(vector(1, 0), vector(1, 1e-4)) < 1e-8


def test_errors_and_norms() -> None:
    assert metrics.max_abs_error(vector(1, -2, 3), vector(1, 2, 3.5)) == 4
    assert metrics.max_abs_error(vector(), vector()) == 0
    assert metrics.norm(vector(3, 4)) == 5
    assert metrics.finite(vector(1, 2)) and not metrics.finite(vector(1, math.inf))
    np.testing.assert_allclose(metrics.normalized(vector(3, 4)), [0.6, 0.8], rtol=1e-7)
    np.testing.assert_array_equal(metrics.normalized(vector(0, 0)), [0, 0])


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [([2, 5, 1], [2, 5, 1], None), ([2, 5, 1], [2, 6, 1], 1), ([2, 5], [2, 5, 1], 2), ([], [], None)],
)
def test_first_difference(a: list[int], b: list[int], expected: int | None) -> None:
    assert metrics.first_difference(a, b) == expected
    assert metrics.first_difference(b, a) == expected


def test_summary() -> None:
    summary = metrics.summarize([float(n) for n in range(101)])
    assert summary is not None
    assert (summary.count, summary.minimum, summary.p1, summary.mean, summary.maximum) == (101, 0, 1, 50, 100)
    assert summary.ci95 == pytest.approx(5.71433, abs=1e-4)
    alone = metrics.summarize([3.0])
    assert alone is not None and alone.ci95 == 0
    assert metrics.summarize([]) is None
    spoiled = metrics.summarize([1.0, math.nan])
    assert spoiled is not None and math.isnan(spoiled.minimum) and math.isnan(spoiled.maximum)


def test_figures() -> None:
    found = Figures.of(vector(3, 4), vector(0, 4))
    assert (found.cosine, found.max_abs_error, found.norm_error, found.finite) == (0.8, 3, 1, True)
    other_shape = Figures.of(vector(3, 4), vector(3, 4, 0))
    assert math.isnan(other_shape.cosine) and not other_shape.finite


@pytest.mark.parametrize(
    ("figures", "word"),
    [
        (Figures(0.99999, 0, 0, True), "cosine"),
        (Figures(1, 2e-5, 0, True), "max abs error"),
        (Figures(1, 0, 2e-5, True), "norm error"),
        (Figures(1, 0, 0, False), "NaN"),
        (Figures(math.nan, 0, 0, True), "cosine"),
        (Figures(1, math.nan, 0, True), "max abs error"),
        (Figures(1, 0, math.nan, True), "norm error"),
    ],
)
def test_each_bound_can_fail(figures: Figures, word: str) -> None:
    assert [word in failure for failure in LOSS["fp32"].failures(1.0, figures)] == [True]


def test_bounds_scale_with_vectors_that_are_not_normalised() -> None:
    figures = Figures(1, 2e-5, 2e-5, True)
    assert len(LOSS["fp32"].failures(1.0, figures)) == 2
    assert LOSS["fp32"].failures(3.0, figures) == []
    assert len(LOSS["fp32"].failures(0.3, figures)) == 2, "a short vector gets no tighter bound"


def test_fp32_bounds_are_the_promised_ones() -> None:
    assert threshold("fp32").as_dict() == {
        "max_abs_error": 1e-5,
        "cosine_min": 0.999999,
        "cosine_mean": 0.999999,
        "norm_error": 1e-5,
        "batch_error": 1e-5,
    }


def test_a_bound_that_does_not_apply_is_left_out() -> None:
    assert "max_abs_error" not in LOSS["int8"].as_dict()
    assert LOSS["int8"].failures(1.0, Figures(0.999, 0.1, 0, True)) == []


def test_unknown_precision() -> None:
    with pytest.raises(InputError, match="fp8"):
        threshold("fp8")
