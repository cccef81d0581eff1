"""What a browser measured, as frozen dataclasses: one run on one device, one case for each graph and engine.

A case is posted by the page of `compare-phone`; times are milliseconds, `load_s` seconds, memory bytes, and
None stands where there is no figure. An engine that gives wrong vectors has no times.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from embedding_validate.compare.document.case import MEASURED

Status = Literal[
    "measured", "wrong", "failed", "not supported", "out of memory", "no answer", "ended", "left out", "begun"
]
"""`ended`: the browser closed the page meanwhile, as it does where memory runs out. `begun`: under way."""

# A browser that ends badly in one of these is a row that says so; what was left out was never tried.
FAILED = ("wrong", "failed", "not supported", "out of memory", "no answer", "ended")


@dataclass(frozen=True)
class BrowserTimes:
    """One length: `samples_ms` are all runs, from which the others come."""

    tokens: int
    status: Status
    reason: str | None
    samples_ms: tuple[float, ...]
    median_ms: float | None = None
    p5_ms: float | None = None
    p95_ms: float | None = None


@dataclass(frozen=True)
class BrowserCase:
    """A graph in one engine of the browser.

    `engine` is `wasm`, `webgpu` or `litert-wasm`. `cosine` is the least to the golden vectors,
    `max_abs_error` the largest difference of a component, `tolerance` what the manifest allows. `load_s` is
    opening the graph from the browser's own store, `first_ms` the first run. `heap_bytes` is the engine's
    memory when it had run: it never shrinks.
    """

    system: str
    engine: str
    threads: int
    status: Status
    reason: str | None
    tolerance: float
    cosine: float | None
    max_abs_error: float | None
    load_s: float | None
    first_ms: float | None
    heap_bytes: int | None
    times: tuple[BrowserTimes, ...]

    @property
    def name(self) -> str:
        """Its name within a run, e.g. `onnx/int8, wasm, 2 threads`."""
        threads = f", {self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.system}, {self.engine}{threads if self.threads else ''}"


@dataclass(frozen=True)
class BrowserMachine:
    """What the browser says of itself and its device; `isolated`: whether it gives threads to this page."""

    agent: str
    cores: int | None
    memory_gb: float | None
    isolated: bool
    webgpu: str | None


@dataclass(frozen=True)
class BrowserRun:
    """What one device's browser measured of one bundle; `label` is the name that its user gave it."""

    label: str
    origin: Literal["browser"]
    started: str
    complete: bool
    machine: BrowserMachine
    bundle: str
    space_id: str
    random_weights: bool
    versions: dict[str, str]
    cases: tuple[BrowserCase, ...]

    @property
    def failures(self) -> tuple[BrowserCase, ...]:
        """The cases that ended badly."""
        return tuple(case for case in self.cases if case.status in FAILED)


def with_figures(case: BrowserCase) -> BrowserCase:
    """The case with the percentiles of its samples."""
    return replace(case, times=tuple(_with_percentiles(times) for times in case.times))


def _with_percentiles(times: BrowserTimes) -> BrowserTimes:
    if times.status != MEASURED or not times.samples_ms:
        return replace(times, median_ms=None, p5_ms=None, p95_ms=None)
    p5, p50, p95 = (round(float(np.percentile(times.samples_ms, p)), 4) for p in (5, 50, 95))
    return replace(times, median_ms=p50, p5_ms=p5, p95_ms=p95)
