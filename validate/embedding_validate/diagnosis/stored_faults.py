"""Names what is wrong with stored weights: the mistake that turns the checkpoint's tensor into this one.

It works on the tensors that the weight audit reported as different.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_export.architectures.interface.tensors import Specs
from embedding_export.audit.audit import Difference
from embedding_export.weights.stored import Grid
from embedding_validate.parity.results import Finding

Array = NDArray[Any]
Floats = NDArray[np.float32]

# Rows of a tensor that are looked at.
_ROWS = 8192
# Share of the values that a mistake must explain: the others were clipped or rounded differently.
_MOST = 0.99
# Rounding to 4 bits makes values up to this much smaller on average.
_LEAST_FACTOR = 0.02
# How far the product of two rows' factors may be from 1, as its logarithm, where rounding blurs them.
_INVERSE = 0.2
_BLOCK = 32
_SHOWN = 3


@dataclass(frozen=True)
class _Tensor:
    """Rows of a tensor as stored (with their grid), and as they should be, within `near` steps."""

    grid: Grid
    want: Floats
    near: float

    @property
    def actual(self) -> Floats:
        return self.grid.values

    def explains(self, values: Floats) -> bool:
        """Whether storing `values` would give the stored rows, within half a step more than is sound."""
        steps = np.abs(self.grid.step) * (self.near + 0.51)
        near = np.abs(values - self.actual) <= steps + np.abs(self.want) * 1e-5
        return bool(near.mean() >= _MOST)


def findings(differences: Sequence[Difference], specs: Specs) -> list[Finding]:
    """A finding for each mistake, with the tensors that it fits; `specs` gives the roles of tensors.

    An int8 graph's matrices are read with factors that its norms carry: if a norm is wrong, the matrices
    after it are not judged.
    """
    wrong = {d.name for d in differences}
    by_name: dict[str, list[Difference]] = {}
    for difference in (d for d in differences if _norm_before(d.name, specs) not in wrong):
        by_name.setdefault(_name(difference, specs), []).append(difference)
    return [_finding(name, group) for name, group in by_name.items()]


def _finding(name: str, group: Sequence[Difference]) -> Finding:
    tensors = ", ".join(d.name for d in group[:_SHOWN])
    more = f" and {len(group) - _SHOWN} more" if len(group) > _SHOWN else ""
    first = f"{group[0].name} {group[0].words}"
    return Finding(f"stored weights: {name} ({tensors}{more})", f"{len(group)} tensors; {first}", None, None)


def _norm_before(name: str, specs: Specs) -> str | None:
    """The norm whose channels a matrix takes, directly or through another matrix; None for other tensors."""
    spec = specs.get(name)
    if spec is None or spec.role != "matrix":
        return None
    beside = (s.norm for s in specs.values() if (s.layer, s.part) == (spec.layer, spec.part))
    return spec.norm or next((norm for norm in beside if norm is not None), None)


def _name(difference: Difference, specs: Specs) -> str:
    if difference.stored is None or difference.expected is None:
        return difference.words.removeprefix("is ")
    rows = min(_ROWS, difference.stored.shape[0])
    tensor = _Tensor(difference.stored.grid(0, rows), difference.expected(0, rows), difference.nearest)
    if rows < difference.stored.shape[0] and tensor.explains(tensor.want):
        return "quantization error beyond its class"  # in rows that are not looked at
    if tensor.want.ndim < 2:
        spec = specs.get(difference.name)
        return (_gain(tensor, spec.offset) if spec else None) or _factor(tensor) or "other values"
    for name, mistake in _MISTAKES.items():
        if mistake(tensor):
            return name
    return _factor(tensor) or _rows(tensor) or "quantization error beyond its class"


def _gain(tensor: _Tensor, offset: float) -> str | None:
    """The fault of norms with another model's offset; `offset` is what this model adds to the files' w."""
    if offset and np.allclose(tensor.actual, tensor.want - offset, atol=1e-6):
        return "w instead of 1 + w"
    if not offset and np.allclose(tensor.actual, tensor.want + 1, atol=1e-6):
        return "1 + w instead of w"
    return None


def _factor(tensor: _Tensor) -> str | None:
    """The fault of one factor on all values: the median row's, which a few wrong rows do not move."""
    actual, want = (np.atleast_2d(x).astype(np.float64) for x in (tensor.actual, tensor.want))
    power = (want**2).sum(-1)
    factor = float(np.median((actual * want).sum(-1)[power > 0] / power[power > 0])) if power.any() else 1.0
    if factor <= 0 or abs(factor - 1) < _LEAST_FACTOR:
        return None
    return f"all values x {factor:.2g}" if tensor.explains(tensor.want * np.float32(factor)) else None


def _rows(tensor: _Tensor) -> str | None:
    """The fault of a few wrong rows; two of them may have each other's scales."""
    step = np.broadcast_to(tensor.grid.step, tensor.want.shape)  # (rows, columns)
    inside = np.clip(tensor.want, tensor.grid.low, tensor.grid.high)
    wrong = np.flatnonzero(
        (np.abs(tensor.actual - inside) > np.abs(step) * (tensor.near + 0.01)).any(axis=-1)
    )
    if len(wrong) > len(tensor.want) // 4:
        return None
    if len(wrong) == 2:
        a, b = wrong.tolist()
        exchanged = _exchanged(tensor, step, wrong)
        return f"scales of rows {a} and {b} exchanged" if exchanged else "two rows wrong"
    return f"{len(wrong)} of {len(tensor.want)} rows wrong"


def _exchanged(tensor: _Tensor, step: Floats, rows: NDArray[np.intp]) -> bool:
    """The fault of two rows with each other's scales: each is the right one times a factor, the other's
    inverse. Steps within a row may differ, and stay with it."""
    actual, want, step = tensor.actual[rows], tensor.want[rows], np.abs(step[rows])
    factors = (actual * want).sum(-1, keepdims=True) / (want * want).sum(-1, keepdims=True)  # (2, 1)
    if (factors <= 0).any() or abs(np.log(factors).sum()) > _INVERSE:
        return False
    near = np.abs(actual / factors - want) <= step / factors * (tensor.near + 3.5)
    return bool(near.mean() >= _MOST)


def _unsigned(tensor: _Tensor) -> bool:
    """The fault of codes that are 128 too large or too small."""
    steps = (tensor.actual - tensor.want) / np.where(tensor.grid.step == 0, np.inf, tensor.grid.step)
    return bool((np.abs(np.abs(steps) - 128) < tensor.near + 0.51).mean() >= _MOST)


def _shifted(tensor: _Tensor) -> bool:
    """The fault of codes that are all off by a whole number of steps, the same within a block."""
    if tensor.want.shape[1] % _BLOCK:
        return False
    rest, middle = _without_shifts(tensor, tensor.actual)
    return bool((np.abs(rest) < tensor.near + 0.51).mean() >= _MOST and (np.abs(middle) > 2).mean() > 0.5)


def _without_shifts(tensor: _Tensor, values: Array) -> tuple[Floats, Floats]:
    """The steps by which `values` are off: relative to each block's median, and the medians."""
    steps = (values - tensor.want) / np.where(tensor.grid.step == 0, np.inf, tensor.grid.step)
    blocks = np.broadcast_to(steps, tensor.want.shape).reshape(len(steps), -1, _BLOCK)
    middle = np.median(blocks, axis=-1, keepdims=True)  # (rows, blocks, 1)
    return np.asarray(blocks - middle, np.float32), np.asarray(middle, np.float32)


def _pairs(values: Array) -> Array:
    """(rows, columns) with neighbouring columns exchanged."""
    return values.reshape(len(values), -1, 2)[:, :, ::-1].reshape(len(values), -1)


def _halves(values: Array) -> Array:
    """(rows, columns) with the two halves of each row exchanged."""
    return np.concatenate(np.split(values, 2, axis=1)[::-1], axis=1)


def _columns(change: Callable[[Array], Array]) -> Callable[[_Tensor], bool]:
    """The fault of codes in another order, perhaps with their blocks' zero points."""

    def mistake(tensor: _Tensor) -> bool:
        if tensor.want.shape[1] % _BLOCK:
            return False
        step = np.array(np.broadcast_to(tensor.grid.step, tensor.want.shape))
        back = change(tensor.actual / np.where(step == 0, np.inf, step)) * step
        return bool((np.abs(_without_shifts(tensor, back)[0]) < 4).mean() >= _MOST)

    return mistake


def _rows_shifted(tensor: _Tensor) -> bool:
    """The fault that each row holds its neighbour's values."""
    up, down = tensor.actual[1:] - tensor.want[:-1], tensor.actual[:-1] - tensor.want[1:]
    step = np.broadcast_to(np.abs(tensor.grid.step), tensor.want.shape)
    shifts = ((up, step[1:]), (down, step[:-1]))
    return any(bool((np.abs(d) <= (tensor.near + 0.51) * s + 1e-6).mean() >= _MOST) for d, s in shifts)


# Ordered from the most to the least telling.
_MISTAKES: dict[str, Callable[[_Tensor], bool]] = {
    "unsigned codes read as signed": _unsigned,
    "4-bit codes of neighbouring columns exchanged": _columns(_pairs),
    "4-bit codes of the two halves of a row exchanged": _columns(_halves),
    "each row is its neighbour's": _rows_shifted,
    "zero points missing": _shifted,
}
