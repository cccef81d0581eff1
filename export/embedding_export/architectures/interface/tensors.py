"""How an architecture describes its tensors, so that no other module has to parse their names.

Names are canonical: the embedding table is called `TABLE`, and the names of a layer's tensors begin with
`layer_prefix`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from embedding_export.architectures.interface.figures import Figures

TABLE = "embed_tokens.weight"

Role = Literal["table", "matrix", "gain", "scalar"]
Part = Literal["table", "attention", "feed-forward", "per-layer", "head"]
Turning = Literal["turned_as_it_runs", "takes_turned", "gives_turned"]
"""How a matrix in 8 bits takes part in turning channels (`weights.turning`): its inputs are turned as a graph
runs; it takes what another matrix gives turned already; or it is that other matrix."""
TURNED_TOGETHER = 16
"""Channels that are turned together, where the width can be divided so; 64 lose little less, and take twice
the time. Heads can be turned by their matrix if they are a multiple of it: no block may lie in two."""


@dataclass(frozen=True)
class TensorSpec:
    """One tensor: its role, and the tensors that it belongs with.

    A gain is the factor of a norm. Files hold it minus `offset`; graphs store it times `scale`. A head norm's
    gain applies to the output of `matrix`; the queries' normed heads are multiplied with those of `keys`. A
    matrix takes the output of the norm `norm`, if channels may be exchanged with it; if it is `unnormed`, it
    takes the sum of all layers so far, whose tokens and channels differ widely in size. A scalar multiplies
    the whole sum. If this tensor is some rows of a tensor in the files, `rows_of` is that tensor and the
    first row.
    """

    shape: tuple[int, ...]
    role: Role
    part: Part
    layer: int | None = None
    offset: float = 0.0
    scale: float = 1.0
    matrix: str | None = None
    keys: str | None = None
    norm: str | None = None
    turning: Turning | None = None
    unnormed: bool = False
    rows_of: tuple[str, int] | None = None


Specs = Mapping[str, TensorSpec]


@dataclass(frozen=True)
class Residual:
    """A sum that a layer adds to, by its name in graphs; it follows a given part of a given layer."""

    name: str
    layer: int
    part: Part


def layer_prefix(layer: int) -> str:
    """The prefix of the names of a layer's tensors and residuals."""
    return f"layers.{layer}."


def norm_takers(specs: Specs) -> dict[str, list[str]]:
    """The matrices that take a norm's output, by the name of its gain, in the order of computation."""
    takers: dict[str, list[str]] = {}
    for name, spec in specs.items():
        if spec.norm is not None:
            takers.setdefault(spec.norm, []).append(name)
    return takers


def name_residuals(figures: Figures, sums: Mapping[str, Part]) -> tuple[Residual, ...]:
    """Every layer's `sums`, in the order of computation, by the names that graphs have."""
    layers = range(len(figures.layer_types))
    return tuple(Residual(f"{layer_prefix(i)}{name}", i, part) for i in layers for name, part in sums.items())


def find_part(name: str, marks: Mapping[str, Part]) -> Part | None:
    """The part whose mark is in a stored tensor's name; None if there is none."""
    return next((part for mark, part in marks.items() if mark in name), None)
