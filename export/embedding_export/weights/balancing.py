"""Balances rounding errors between the two sides of a product, by moving factors from one side to the other.

A row of activations has one scale, and so has a row of weights: a channel that is large in either makes all
others coarse. If a channel is divided by t where a norm makes it, and the column of weights that takes it is
multiplied by t, only the rounding changes (SmoothQuant, arXiv 2211.10438, which takes t from the largest
magnitudes; here the expected error of the product decides). If no norm comes before a matrix, the graph
multiplies its inputs at run time. Queries and keys are balanced in the same way if their scores are products
of codes. Every t is a power of two, so the function stays the same to the last bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from embedding_export.architectures.interface.figures import Figures
from embedding_export.architectures.interface.tensors import norm_takers
from embedding_export.architectures.registry import tensor_specs
from embedding_export.weights.calibration import Calibration, Heads
from embedding_export.weights.folding import Weight, Weights

Floats = NDArray[np.float32]

# Largest exponent of a factor, and how often all channels are gone over.
MOST = 6
SWEEPS = 3
# A factor changes only for a gain beyond what float32 sums are uncertain by.
WORTH = 1 - 1e-4
# Ratios tried between the largest queries and the largest keys, as multiples of the least.
SPREADS = np.logspace(0, 1.3, 40)


@dataclass(frozen=True)
class Balanced:
    """`weights` to store, whose columns were multiplied by `columns` (keyed by matrix). `gains` are the
    divisors of norms' gains (keyed by norm); `unnormed` are the divisors of the inputs of matrices without a
    norm before them.
    """

    weights: Weights
    gains: Mapping[str, Floats]
    columns: Mapping[str, Floats]
    unnormed: Mapping[str, Floats]


@dataclass(frozen=True)
class _Moved:
    """A matrix with its columns multiplied by `columns`."""

    weight: Weight
    columns: Floats

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape

    def rows(self, start: int, stop: int) -> Floats:
        return self.weight.rows(start, stop) * self.columns

    def array(self) -> Floats:
        return self.rows(0, self.shape[0])


def balance(config: Figures, weights: Weights, seen: Calibration) -> Balanced:
    """Balance each norm with the matrices that take its output.

    If no norm comes before a matrix, tokens differ in size: then each counts by its own products.
    """
    specs, tensors = tensor_specs(config), dict(weights.tensors)
    gains: dict[str, Floats] = {}
    columns: dict[str, Floats] = {}
    for norm, takers in norm_takers(specs).items():
        gains[norm] = _factors(seen.inputs[norm], [weights.tensors[t].array() for t in takers])
        columns |= dict.fromkeys(takers, gains[norm])
    unnormed: dict[str, Floats] = {}
    for name in (n for n, spec in specs.items() if spec.unnormed):
        inputs, matrix = seen.inputs[name], weights.tensors[name].array()
        size = np.sqrt(np.square(inputs @ matrix.T).mean(axis=1, keepdims=True))
        unnormed[name] = _factors(inputs / np.maximum(size, np.float32(1e-30)), [matrix])
    columns |= unnormed
    tensors |= {name: _Moved(tensors[name], factors) for name, factors in columns.items()}
    return Balanced(replace(weights, tensors=tensors), gains, columns, unnormed)


def balance_heads(config: Figures, seen: Calibration) -> dict[str, Floats]:
    """The divisors of the head norms' gains, for scores from codes with one scale each: float32 [D]."""
    gains: dict[str, Floats] = {}
    for queries, spec in tensor_specs(config).items():
        if spec.keys is not None:
            factors = np.tile(_head_factors(seen.heads[queries], seen.heads[spec.keys]), 2)
            gains |= {queries: np.float32(1) / factors, spec.keys: factors}
    return gains


def _head_factors(q: Heads, k: Heads) -> Floats:
    """The factor for each pair of query channels, by which the keys' are divided: [D / 2].

    With steps s and t, the squared error of a score is s²|k|² + t²|q|² (times 1 / 12). For each ratio of the
    largest query to the largest key there is a closed form for the best factors, within the limits that these
    two set.
    """
    live = (q.largest > 0) & (k.largest > 0)
    factors = np.ones(len(live), np.float32)
    if not live.any():
        return factors
    (q_most, q_square), (k_most, k_square) = (
        (x.largest[live].astype(np.float64), x.mean_square[live].astype(np.float64)) for x in (q, k)
    )
    least = np.inf
    for spread in SPREADS * (q_most * k_most).max():
        free = np.sqrt(spread * np.sqrt(k_square / q_square))
        candidate = np.exp2(np.rint(np.log2(np.minimum(np.maximum(free, k_most), spread / q_most))))
        error = (q_most * candidate).max() ** 2 * (k_square / candidate**2).sum()
        error += (k_most / candidate).max() ** 2 * (q_square * candidate**2).sum()
        if error < least:
            least, factors[live] = error, candidate
    return factors


def _factors(inputs: Floats, matrices: list[Floats]) -> Floats:
    """Powers of two [in] to divide the inputs [rows, in] by, for the least expected error of the products."""
    outputs = [np.square(inputs @ m.T).sum(axis=1).mean() for m in matrices]
    importance = np.concatenate(
        [np.full(len(m), 1 / max(o, 1e-30)) for m, o in zip(matrices, outputs, strict=True)]
    )
    errors = _Errors(inputs, np.concatenate(matrices), importance)
    for _ in range(SWEEPS):
        if not errors.improved():
            break
    return np.exp2(errors.exponents).astype(np.float32)


class _Errors:
    """The expected squared error of products, each row of both sides rounded to steps of its largest / 127.

    mean(largest input²) * Σ weights² + Σ(largest weight²) * mean Σ inputs², rows of weights by importance.
    """

    def __init__(self, inputs: Floats, matrix: Floats, importance: NDArray[np.float64]) -> None:
        self.exponents = np.zeros(inputs.shape[1], np.int64)
        self._sides = (
            _Side(inputs, np.full(len(inputs), 1 / len(inputs))),
            _Side(matrix, importance),
        )

    def improved(self) -> bool:
        """Go once over the channels that are the largest of some row; returns whether anything changed."""
        inputs, matrix = self._sides
        changed = False
        for channel in np.union1d(inputs.leading, matrix.leading).tolist():
            least, best = inputs.largest * matrix.energy.sum() + matrix.largest * inputs.energy.sum(), 0
            for step in (-1, 1, 2, -2):
                if abs(self.exponents[channel] + step) <= MOST:
                    error = inputs.largest_with(channel, -step) * matrix.energy_with(channel, step)
                    error += matrix.largest_with(channel, step) * inputs.energy_with(channel, -step)
                    if error < least * WORTH:
                        least, best = error, step
            if best:
                changed = True
                self.exponents[channel] += best
                inputs.scale(channel, -best)
                matrix.scale(channel, best)
        return changed


class _Side:
    """One side of the products: rows [n, channels], weighted by `shares`."""

    def __init__(self, rows: Floats, shares: NDArray[np.float64]) -> None:
        self._rows, self._shares = np.abs(rows), shares
        self.energy = np.square(self._rows, dtype=np.float64).T @ shares
        self._leading = np.zeros(len(rows), np.int64)
        self._most, self._second = (np.zeros(len(rows), np.float32) for _ in range(2))
        self._rank(np.arange(len(rows)))

    @property
    def leading(self) -> NDArray[np.int64]:
        """The channel that is largest in each row."""
        return self._leading

    @property
    def largest(self) -> float:
        """The mean of the rows' largest squares."""
        return float(np.square(self._most) @ self._shares)

    def largest_with(self, channel: int, step: int) -> float:
        """`largest` if a channel were 2^step times as large."""
        others = np.where(self._leading == channel, self._second, self._most)
        return float(np.square(np.maximum(others, self._rows[:, channel] * 2.0**step)) @ self._shares)

    def energy_with(self, channel: int, step: int) -> float:
        """The sum of `energy` if a channel were 2^step times as large."""
        return float(self.energy.sum() + self.energy[channel] * (4.0**step - 1))

    def scale(self, channel: int, step: int) -> None:
        """Make a channel 2^step times as large."""
        before = self._rows[:, channel].copy()
        self._rows[:, channel] *= np.float32(2.0**step)
        self.energy[channel] *= 4.0**step
        self._rank(np.flatnonzero(np.maximum(before, self._rows[:, channel]) >= self._second))

    def _rank(self, at: NDArray[np.int64]) -> None:
        """Find the largest two of some rows."""
        rows, count = self._rows[at], np.arange(len(at))
        self._leading[at] = leading = rows.argmax(axis=1)
        self._most[at] = rows[count, leading]
        rows[count, leading] = -1
        self._second[at] = rows.max(axis=1)
