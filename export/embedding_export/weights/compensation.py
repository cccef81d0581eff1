"""Rounds a matrix with the least error of its products: later columns compensate earlier ones' errors.

Columns are rounded one by one. The columns still to come take back the change in the outputs, as far as
inputs are correlated (GPTQ, arXiv 2210.17323). With 4 bits, scales are then fitted to the codes, and the
codes once more to the scales, each by the error of the products.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from embedding_export.weights.quantize import (
    INT8_MAX,
    LARGEST_CODE,
    LARGEST_SIGNED_CODE,
    SMALLEST_NORMAL_FLOAT16,
    Floats,
    Int4Rows,
    Int4Symmetric,
    Int8Rows,
    bfloat16,
    int4_rows,
    int4_symmetric,
    int4_within_int8,
    int8_rows,
)

# Added to the moments' diagonal, as a part of its mean: texts to calibrate on are few, and what they show by
# chance must not be learned (0.01 and 1 lose more on other texts).
DAMPING = 0.1
# Of the table's, which come of weights alone.
TABLE_DAMPING = 0.01
# A code differs from the nearest by at most this many steps, in 8 bits, in 4, and in 4 bits of a table.
MOST_STEPS, MOST_STEPS_OF_4_BITS, MOST_STEPS_OF_TABLES = 3, 2, 1
# How far a scale may be from that of the least error of the weights, relatively.
MOST_RESCALED = 0.15
# Columns that are gone through before the rest hears of it.
_BLOCK = 64
# Rows whose scales are fitted at a time.
_ROWS = 128


def compensated_int8(values: Floats, moments: Floats) -> Int8Rows:
    """`int8_rows` with codes that compensate each other's errors; moments are the mean of x xᵀ, [in, in]."""
    scales = int8_rows(values).scales
    codes = np.divide(values.T, scales)  # [in, out], in steps
    ones = np.ones((len(codes), 1), np.float32)
    grid = _Columns(ones, -INT8_MAX * ones, INT8_MAX * ones, MOST_STEPS)
    return Int8Rows(grid.rounded(codes, _damped(moments)).T.astype(np.int8), scales)


def compensated_int4(values: Floats, moments: Floats, block: int) -> Int4Rows:
    """`int4_within_int8` with codes that make good each other's errors.

    Raises:
        ExportError: rows are no multiple of `block` long.
    """
    damped = _damped(moments)
    plain = int4_within_int8(values, block, damped.diagonal())
    steps, zeros = (_wide(x.astype(np.float32), block) for x in (plain.steps, plain.zeros))
    grid = _Columns(steps * plain.scales.T, -zeros, LARGEST_CODE - zeros, MOST_STEPS_OF_4_BITS)
    codes = grid.rounded(values.T, damped)
    scales = _fitted_scale(values, codes * steps, plain.scales, damped)
    grid = replace(grid, steps=steps * scales.T)
    codes = grid.improved(values.T, codes, damped) + zeros
    shaped = np.ascontiguousarray(codes.T).reshape(plain.codes.shape).astype(np.uint8)
    return Int4Rows(shaped, plain.zeros, plain.steps, scales)


def compensated_symmetric(values: Floats, moments: Floats, block: int) -> Int4Symmetric:
    """`int4_symmetric` with codes that compensate each other's errors.

    Raises:
        ExportError: rows are no multiple of `block` long.
    """
    damped = _damped(moments)
    plain = int4_symmetric(values, block, damped.diagonal())
    steps = _wide(plain.scales.astype(np.float32), block)
    ends = np.full((len(steps), 1), LARGEST_SIGNED_CODE, np.float32)
    grid = _Columns(steps, -ends - 1, ends, MOST_STEPS_OF_4_BITS)
    codes = grid.rounded(values.T, damped)
    fitted = _fitted_scales(values, codes, plain.scales.astype(np.float32), damped)
    scales = bfloat16(np.maximum(fitted, SMALLEST_NORMAL_FLOAT16)).astype(np.float16)
    grid = replace(grid, steps=_wide(scales.astype(np.float32), block))
    codes = grid.improved(values.T, codes, damped)
    return Int4Symmetric(np.ascontiguousarray(codes.T).astype(np.int8), scales)


def compensated_rows(values: Floats, moments: Floats, block: int) -> Int4Rows:
    """`int4_rows` of a table with codes that make good each other's errors, as `moments` weigh them together.

    Raises:
        ExportError: rows are no multiple of `block` long.
    """
    damped = _damped(moments, TABLE_DAMPING)
    plain = int4_rows(values, block, damped.diagonal())
    steps, zeros = (_wide(x.astype(np.float32), block) for x in (plain.steps * plain.scales, plain.zeros))
    grid = _Columns(steps, -zeros, LARGEST_CODE - zeros, MOST_STEPS_OF_TABLES)
    codes = (grid.rounded(values.T, damped) + zeros).T
    return replace(plain, codes=np.ascontiguousarray(codes).reshape(plain.codes.shape).astype(np.uint8))


@dataclass(frozen=True)
class _Columns:
    """The step and range of the codes of a matrix's columns, broadcast to [in, out]."""

    steps: Floats
    low: Floats
    high: Floats
    most: int
    """Steps that a code may differ from what is nearest to its value."""

    def rounded(self, values: Floats, damped: NDArray[np.float64]) -> Floats:
        """Codes of values [in, out]; the channels that matter most are rounded first."""
        order = np.argsort(-damped.diagonal(), kind="stable")
        factor = _factor(damped[np.ix_(order, order)])
        exact, steps, low, high = (x[order] for x in (values, self.steps, self.low, self.high))
        left, result = exact.copy(), np.empty(values.shape, np.float32)
        for start in range(0, len(exact), _BLOCK):
            stop = min(start + _BLOCK, len(exact))
            errors = np.empty_like(exact[start:stop])
            for i in range(start, stop):
                target = exact[i] / steps[i]
                near = np.clip(np.rint(left[i] / steps[i]), target - self.most, target + self.most)
                codes = np.clip(np.rint(near), low[i], high[i])
                errors[i - start] = (left[i] - codes * steps[i]) / factor[i, i]
                left[i + 1 : stop] -= np.outer(factor[i, i + 1 : stop], errors[i - start])
                result[order[i]] = codes
            left[stop:] -= factor[start:stop, stop:].T @ errors
        return result

    def improved(self, values: Floats, codes: Floats, damped: NDArray[np.float64]) -> Floats:
        """Codes [in, out], each changed once to the best value given all others."""
        moments = damped.astype(np.float32)
        result = codes.copy()
        slopes = moments @ (codes * self.steps - values)  # of half the error, by each value
        for start in range(0, len(result), _BLOCK):
            stop = min(start + _BLOCK, len(result))
            changes = np.zeros_like(result[start:stop])
            for i in range(start, stop):
                target = values[i] / self.steps[i]
                free = result[i] - slopes[i] / (moments[i, i] * self.steps[i])
                near = np.clip(np.rint(free), target - self.most, target + self.most)
                better = np.clip(np.rint(near), self.low[i], self.high[i])
                changes[i - start] = (better - result[i]) * self.steps[i]
                slopes[i + 1 : stop] += np.outer(moments[i + 1 : stop, i], changes[i - start])
                result[i] = better
            slopes[stop:] += moments[stop:, start:stop] @ changes
        return result


def _fitted_scales(values: Floats, codes: Floats, scales: Floats, damped: NDArray[np.float64]) -> Floats:
    """The scales [out, blocks] with the least error of the products for codes [in, out]; each row's are
    solved together.

    A scale that would change too much, as is possible if its codes are nearly zero, stays as it is.
    """
    count, moments = scales.shape[1], damped.astype(np.float32)
    solution = np.empty(scales.shape, np.float64)
    for start in range(0, len(values), _ROWS):
        rows = slice(start, min(start + _ROWS, len(values)))
        blocks = codes.T[rows].reshape(rows.stop - start, count, -1)
        parts = moments.reshape(count, -1, len(moments))
        products = np.einsum("rib,ibc->ric", blocks, parts, optimize=True)  # [rows, blocks, in]
        targets = np.einsum("ric,rc->ri", products, values[rows])
        system = np.einsum("rijb,rjb->rij", products.reshape(*products.shape[:2], count, -1), blocks).astype(
            float
        )
        live = np.trace(system, axis1=1, axis2=2)[:, None, None] / count
        system += np.eye(count) * np.maximum(1e-6 * live, 1e-30)
        solution[rows] = np.linalg.solve(system, targets.astype(float)[:, :, None])[:, :, 0]
    sound = np.abs(solution - scales) <= MOST_RESCALED * scales
    return np.where(sound, solution, scales).astype(np.float32)


def _fitted_scale(values: Floats, codes: Floats, scales: Floats, damped: NDArray[np.float64]) -> Floats:
    """The scale of each row [out, 1] of the products' least error for whole codes [in, out]."""
    products = damped.astype(np.float32) @ codes
    live = np.einsum("io,io->o", codes, products)
    targets = np.einsum("oi,io->o", values, products)
    solution = np.divide(targets, live, out=scales[:, 0].copy(), where=live > 0)[:, None]
    sound = np.abs(solution - scales) <= MOST_RESCALED * scales
    return np.where(sound, solution, scales).astype(np.float32)


def _wide(blocks: Floats, block: int) -> Floats:
    """Values of blocks [out, blocks] repeated for each of their columns: [in, out]."""
    return np.ascontiguousarray(np.repeat(blocks, block, axis=1).T)


def _damped(moments: Floats, damping: float = DAMPING) -> NDArray[np.float64]:
    damped = moments.astype(np.float64)
    damped = (damped + damped.T) / 2  # float32 sums are not even, which inverting enlarges
    mean = damped.trace() / len(damped)
    damped[np.diag_indices_from(damped)] += damping * mean if mean > 0 else 1.0
    return damped


def _factor(damped: NDArray[np.float64]) -> NDArray[np.float32]:
    """Upper triangular U with Uᵀ U the inverse of the damped moments."""
    return np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)
