"""Rounds a matrix so that its products err least on what it takes: errors are made good as they arise.

Columns are rounded one by one, and what that changes in the outputs is taken back by the columns that are
still to come, as far as inputs are correlated (GPTQ, arXiv 2210.17323).
"""

import numpy as np
from numpy.typing import NDArray

from embedding_export.weights.quantize import INT8_MAX, Floats, Int8Rows, int8_rows

# Added to the moments' diagonal, as a part of its mean: texts to calibrate on are few, and what they show by
# chance must not be learned (0.01 and 1 lose more on other texts).
DAMPING = 0.1
# A code differs from the nearest by at most so many steps.
MOST_STEPS = 3
# Columns that are gone through before the rest hears of it.
_BLOCK = 64


def compensated_int8(values: Floats, moments: Floats) -> Int8Rows:
    """`int8_rows` with codes that make good each other's errors; moments are the mean of x xᵀ, [in, in]."""
    scales = int8_rows(values).scales
    order = np.argsort(-moments.diagonal(), kind="stable")
    factor = _factor(moments[np.ix_(order, order)])
    exact = np.divide(values[:, order].T, scales)  # [in, out], in steps
    left, codes = exact.copy(), np.empty_like(exact)
    for start in range(0, len(exact), _BLOCK):
        stop = min(start + _BLOCK, len(exact))
        errors = np.empty_like(exact[start:stop])
        for i in range(start, stop):
            near = np.clip(np.rint(left[i]), exact[i] - MOST_STEPS, exact[i] + MOST_STEPS)
            codes[i] = np.clip(np.rint(near), -INT8_MAX, INT8_MAX)
            errors[i - start] = (left[i] - codes[i]) / factor[i, i]
            left[i + 1 : stop] -= np.outer(factor[i, i + 1 : stop], errors[i - start])
        left[stop:] -= factor[start:stop, stop:].T @ errors
    found = np.empty(values.shape, np.int8)
    found[:, order] = codes.T.astype(np.int8)
    return Int8Rows(found, scales)


def _factor(moments: Floats) -> NDArray[np.float32]:
    """Upper triangular U with Uᵀ U the inverse of the damped moments."""
    damped = moments.astype(np.float64)
    damped = (
        damped + damped.T
    ) / 2  # float32 sums are not, and where one channel is all of it, inverting shows
    mean = damped.trace() / len(damped)
    damped[np.diag_indices_from(damped)] += DAMPING * mean if mean > 0 else 1.0
    return np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)
