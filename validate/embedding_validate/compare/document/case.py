"""One measured case, and whether anything disturbed it: pure functions and frozen dataclasses.

A case is one system at one shape and number of threads; its times are compared with those of the reference
case, which ran in turn with it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Literal

import numpy as np

from embedding_validate.compare.document.shapes import Shape
from embedding_validate.records import optional

MEASURED: Literal["measured"] = "measured"
# Shares of the threads' time spent waiting for a CPU, and CPUs that others kept busy meanwhile.
MOST_WAITED = 0.05
MOST_FOREIGN = 0.2
# What rounds' ratios may differ by, the most extreme on either side left out: two runs of a comparison agree
# within this, or the case is marked.
MOST_SPREAD = 0.15


Samples = tuple[tuple[float, ...], ...]
"""Seconds, round by round."""


@dataclass(frozen=True)
class Rounds:
    """The samples of a case in seconds, round by round, with the reference case's, and what disturbed them.

    `waited_s` and `foreign_s` are sums over all of its blocks (see `measure.process.Block`).
    """

    own: Samples
    reference: Samples
    waited_s: float
    foreign_s: float
    throttled: str | None = None

    @property
    def ratios(self) -> list[float]:
        """The reference's median over this system's, per round; above 1 is faster than the reference."""
        return [median(r) / median(s) for r, s in zip(self.reference, self.own, strict=True)]

    @property
    def seconds(self) -> float:
        """The time that all samples took."""
        return sum(map(sum, (*self.own, *self.reference)))


@dataclass(frozen=True)
class Case:
    """One case in `compare.json`; milliseconds, kB, and None if there is no figure.

    `status` is "measured", "crashed", "out of memory" or "refused", then with a `reason`. `noise` says what
    disturbed it. `ratio` is the median over rounds of the reference case's time over this one's.
    `first_ms` is the first run of a fresh process. `samples` holds seconds, round by round. Only older
    results have `cosine`: the least to the accuracy's base, over random token ids.
    """

    system: str
    threads: int
    batch: int
    tokens: int
    status: str
    reason: str | None = None
    command: tuple[str, ...] = ()
    started: str | None = None
    attempts: int = 1
    noise: tuple[str, ...] = ()
    runs: int = 0
    median_ms: float | None = None
    p5_ms: float | None = None
    p95_ms: float | None = None
    tokens_per_s: float | None = None
    ratio: float | None = None
    ratio_spread: float | None = None
    waited: float | None = None
    foreign: float | None = None
    load_s: float | None = None
    first_ms: float | None = None
    memory: dict[str, int] = field(default_factory=dict)
    machine_state: dict[str, float | bool | None] = field(default_factory=dict)
    samples: dict[str, Samples] = field(default_factory=dict)
    cosine: float | None = optional()

    @property
    def shape(self) -> str:
        """Its shape in text form: `64`, `8x128`."""
        return str(Shape(self.batch, self.tokens))

    @property
    def key(self) -> str:
        """Its name within a run, e.g. `onnx/int8 | 2 threads | 8x128`."""
        return f"{self.system} | {self.threads} threads | {self.shape}"

    def noted(self, reasons: Iterable[str], instead_of: str) -> "Case":
        """The case with these reasons in its noise, in place of those that begin with `instead_of`."""
        others = (reason for reason in self.noise if not reason.startswith(instead_of))
        return replace(self, noise=(*others, *reasons))


def timed(case: Case, rounds: Rounds) -> Case:
    """The case with its figures."""
    own = np.array([s for block in rounds.own for s in block])
    p5, p50, p95 = (round(1e3 * float(np.percentile(own, p)), 4) for p in (5, 50, 95))
    return replace(
        case,
        status=MEASURED,
        noise=tuple(noise(rounds, case.threads)),
        runs=len(own),
        median_ms=p50,
        p5_ms=p5,
        p95_ms=p95,
        tokens_per_s=round(case.batch * case.tokens / p50 * 1e3, 1),
        ratio=round(median(rounds.ratios), 4),
        ratio_spread=round(spread(rounds.ratios), 4),
        waited=round(_waited(rounds, case.threads), 4),
        foreign=round(rounds.foreign_s / rounds.seconds, 4),
        samples={
            "own": tuple(tuple(round(s, 7) for s in block) for block in rounds.own),
            "reference": tuple(tuple(round(s, 7) for s in block) for block in rounds.reference),
        },
    )


def noise(rounds: Rounds, threads: int) -> list[str]:
    """The disturbances of the measurement, in words; empty if there were none."""
    reasons = [rounds.throttled] if rounds.throttled else []
    if (waited := _waited(rounds, threads)) > MOST_WAITED:
        reasons.append(f"waited for a CPU {waited:.0%} of the time")
    if (busy := rounds.foreign_s / rounds.seconds) > MOST_FOREIGN:
        reasons.append(f"others kept {busy:.1f} CPUs busy")
    if (apart := spread(rounds.ratios)) > MOST_SPREAD:
        reasons.append(f"rounds differ by {apart:.0%}")
    return reasons


def disturbance(rounds: Rounds, threads: int) -> float:
    """How disturbed a measurement is; the least disturbed of several attempts is kept."""
    return _waited(rounds, threads) + rounds.foreign_s / rounds.seconds + spread(rounds.ratios)


def spread(ratios: Sequence[float]) -> float:
    """(largest - smallest) / median of the rounds' ratios; from five on, the extreme ones are left out."""
    inner = sorted(ratios)[1:-1] if len(ratios) >= 5 else sorted(ratios)
    return (inner[-1] - inner[0]) / median(ratios)


def _waited(rounds: Rounds, threads: int) -> float:
    return rounds.waited_s / (threads * rounds.seconds)
