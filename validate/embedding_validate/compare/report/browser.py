"""What a phone's browser measured, as text and as parts of the page. Computes no figure."""

from collections.abc import Sequence
from typing import Any

from embedding_validate.compare.document.browser import BrowserCase, BrowserRun, BrowserTimes
from embedding_validate.compare.report.grid import NONE, grid, number


def lengths(run: BrowserRun) -> list[int]:
    """The lengths in tokens that any case was asked for, in order."""
    return sorted({t.tokens for case in run.cases for t in case.times})


def times_of(case: BrowserCase, tokens: int) -> BrowserTimes | None:
    """A case's times at a length."""
    return next((t for t in case.times if t.tokens == tokens), None)


def series(run: BrowserRun) -> dict[str, list[tuple[float, float]]]:
    """(tokens, median ms) of each case that has two lengths or more."""
    by_case = {
        case.name: [(float(t.tokens), t.median_ms) for t in case.times if t.median_ms is not None]
        for case in run.cases
    }
    return {name: points for name, points in by_case.items() if len(points) > 1}


def verdict(case: BrowserCase) -> str:
    """What the golden vectors say of a case, or what kept it from being measured."""
    if case.status != "measured":
        return f"{case.status}: {case.reason}" if case.reason else case.status
    error = f"largest difference {number(case.max_abs_error)} of {case.tolerance:g} allowed"
    return f"cosine {case.cosine:.5f}, {error}"


def about(run: BrowserRun) -> str:
    """The device and its browser, in a sentence or two."""
    machine = run.machine
    facts = [
        f"{machine.cores} cores" if machine.cores else "",
        f"at least {machine.memory_gb:g} GB of memory" if machine.memory_gb else "",
        f"WebGPU: {machine.webgpu}" if machine.webgpu else "no WebGPU",
        "" if machine.isolated else "not cross-origin isolated, so one thread",
    ]
    words = f"; it says: {', '.join(k for k in facts if k)}"
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    bundle = f"{run.bundle}, whose weights are random" if run.random_weights else run.bundle
    return f"Measured in a browser ({machine.agent}{words}) by {versions}, on {bundle}, {run.started}."


def heap_megabytes(case: BrowserCase) -> float | None:
    """Memory of the engine, MB."""
    return None if case.heap_bytes is None else case.heap_bytes / 1e6


def markdown(run: BrowserRun) -> list[str]:
    """Everything of a run, as blocks of Markdown."""
    tokens = lengths(run)
    parts = [] if run.complete else ["**Not ended: the page was closed before its last case.**"]
    parts.append(about(run))
    head = ["ms (5th–95th percentile)", *map(str, tokens), "load s", "first ms", "engine's MB"]
    parts.append(grid(head, [_row(case, tokens) for case in run.cases if case.status == "measured"]))
    return [*parts, *(f"- {case.name}: {verdict(case)}" for case in run.cases)]


def _row(case: BrowserCase, tokens: Sequence[int]) -> list[str]:
    cells = [_cell(times_of(case, n)) for n in tokens]
    return [case.name, *cells, number(case.load_s), number(case.first_ms), number(heap_megabytes(case))]


def _cell(times: BrowserTimes | None) -> str:
    if times is None:
        return NONE
    if times.median_ms is None:
        return times.status
    return f"{number(times.median_ms)} ({number(times.p5_ms)}–{number(times.p95_ms)})"


def context(run: BrowserRun) -> dict[str, Any]:
    """What the page shows of a run."""
    tokens = lengths(run)
    return {
        "about": about(run),
        "lengths": tokens,
        "rows": [
            {"case": case, "heap": heap_megabytes(case), "times": [times_of(case, n) for n in tokens]}
            for case in run.cases
            if case.status == "measured"
        ],
        "verdicts": [
            {"name": case.name, "said": verdict(case), "bad": case in run.failures} for case in run.cases
        ],
    }
