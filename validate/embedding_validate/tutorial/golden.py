"""The tutorial's texts, prompts and printed figures (`golden.json`), and the check of a model against them.

The caller passes a function that gives vectors.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.errors import InputError
from embedding_runtime.machine.cpu import cpu_kind
from embedding_validate.probes.probes import Probe
from embedding_validate.runners.calls import VectorOf

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Score:
    """The similarity of two texts at a dim, and the figure printed for it (None: an example of our own).

    `note` says if the page shows another call than the one that gives its figure. `within` is the error of a
    figure that was printed with coarser arithmetic than float32 (the model card's: 3.5e-4).
    """

    id: str
    group: str
    left: Probe
    right: Probe
    dim: int
    similarity: Literal["cosine", "dot"]
    value: float | None
    note: str | None = None
    within: float = 0.0

    def of(self, vector_of: VectorOf, dim: int | None) -> float:
        """A model's score; cosine and dot are the same, because `vector_of` normalises at a dim."""
        left, right = vector_of(self.left, dim), vector_of(self.right, dim)
        dot = float(left.astype(np.float64) @ right.astype(np.float64))
        return dot if self.similarity == "dot" else dot / float(np.linalg.norm(left) * np.linalg.norm(right))


@dataclass(frozen=True)
class Components:
    """The first and the last components printed for a text without a prompt."""

    probe: Probe
    first: tuple[float, ...]
    last: tuple[float, ...]


@dataclass(frozen=True)
class Golden:
    """Everything in `golden.json`.

    `tolerances` gives the largest absolute difference of a "score" and of a "component" by precision and kind
    of CPU (`embedding_runtime.machine.cpu.cpu_kind`; "any" for the others). That of fp32 is the difference
    between a GPU, on which the figures were printed, and a CPU. The others add the precision's loss: about
    twice what was measured in either format, on CPUs that round alike in 4 bits.
    """

    name: str
    parameters: int
    prompts: dict[str, str]
    tolerances: dict[str, dict[str, dict[str, float]]]
    components: tuple[Components, ...]
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class GoldenCase:
    """One printed figure, the model's figure, and the largest difference allowed."""

    id: str
    printed: float
    found: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance (NaN is not)."""
        return abs(self.found - self.printed) <= self.tolerance


@cache
def load() -> Golden:
    """The package's golden figures."""
    data = json.loads(resources.files(__package__).joinpath("golden.json").read_text(encoding="utf-8"))
    return Golden(
        name=data["checkpoint"]["name"],
        parameters=data["checkpoint"]["parameters"],
        prompts=data["prompts"],
        tolerances=data["tolerances"],
        components=tuple(
            Components(_probe({"text": c["text"]}), tuple(c["first"]), tuple(c["last"]))
            for c in data["components"]
        ),
        scores=tuple(
            Score(**{**s, "left": _probe(s["left"]), "right": _probe(s["right"])}) for s in data["scores"]
        ),
    )


def is_printed_model(name: str, parameters: int) -> bool:
    """Whether the printed figures are those of this model, by its name's last part and its parameters."""
    golden = load()
    last = golden.name.rpartition("/")[2].lower()
    return name.rpartition("/")[2].lower() == last and parameters == golden.parameters


def require(name: str, parameters: int) -> None:
    """Refuse any model but the one whose figures were printed.

    Raises:
        InputError: another name (its last part counts, in any case of letters) or number of parameters.
    """
    if is_printed_model(name, parameters):
        return
    golden = load()
    raise InputError(
        f"The golden figures are those of {golden.name} ({golden.parameters:,} parameters); this is {name} "
        f"({parameters:,} parameters). Leave --golden out, or give a checkpoint whose folder has that name."
    )


def tolerances(precision: str) -> dict[str, float]:
    """The largest differences of a "score" and a "component" that a precision may show on this kind of CPU.

    Raises:
        InputError: there are none for the precision.
    """
    by_precision = load().tolerances
    if precision not in by_precision:
        raise InputError(
            f"There are no golden tolerances for precision {precision!r}, only for {sorted(by_precision)}. "
            "Leave --golden out."
        )
    return by_precision[precision].get(cpu_kind(), by_precision[precision]["any"])


def check(vector_of: VectorOf, precision: str) -> tuple[GoldenCase, ...]:
    """Compare a model with every printed figure.

    Raises:
        InputError: there are no tolerances for the precision.
    """
    golden, tolerance, cases = load(), tolerances(precision), []
    for c in golden.components:
        vector = vector_of(c.probe, None)
        components = [*vector[: len(c.first)], *vector[-len(c.last) :]]
        for i, (printed, value) in enumerate(zip([*c.first, *c.last], components, strict=True)):
            at = i if i < len(c.first) else i - len(c.first) - len(c.last)
            cases.append(GoldenCase(f"{c.probe.text}[{at}]", printed, float(value), tolerance["component"]))
    for s in golden.scores:
        if s.value is not None:
            allowed = max(tolerance["score"], s.within)
            cases.append(GoldenCase(s.id, s.value, s.of(vector_of, s.dim), allowed))
    return tuple(cases)


def _probe(item: dict[str, Any]) -> Probe:
    return Probe(id=item["text"], script="Golden", **item)
