"""`compare.html`: one self-contained page, a pure function of `compare.json`. Needs jinja2."""

import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from embedding_validate.compare.document import figures
from embedding_validate.compare.document.agreement import agreements
from embedding_validate.compare.document.browser import BrowserRun
from embedding_validate.compare.document.case import Case
from embedding_validate.compare.document.document import AnyRun, Document, PerTensorEntry, Run
from embedding_validate.compare.document.tool_run import ToolRun
from embedding_validate.compare.report import advice as compare_advice
from embedding_validate.compare.report import browser as browser_text
from embedding_validate.compare.report import corpus as corpus_text
from embedding_validate.compare.report import grid as compare_grid
from embedding_validate.compare.report import plots as compare_plots
from embedding_validate.compare.report import predicted
from embedding_validate.compare.report.plots import Dot
from embedding_validate.report.plots import Axis
from embedding_validate.report.template import environment

HTML = "compare.html"
_UNKNOWN = " Dashed: nothing of its model to measure its vectors against."

Context = dict[str, Any]
"""What a part of the template may name."""


def render(document: Document) -> str:
    """The page of all runs.

    Raises:
        ReportError: jinja2 is not installed.
    """
    templates = environment()
    templates.filters |= {"number": compare_grid.number, "megabytes": _megabytes}
    templates.filters["style"] = compare_plots.style_of
    template = resources.files(__package__).joinpath("compare.html").read_text(encoding="utf-8")
    page: str = templates.from_string(template).render(
        runs=[_run(run) for run in document.runs],
        agreements=agreements(document),
        series=compare_plots.SERIES,
    )
    return page


def _run(run: AnyRun) -> Context:
    """The values that the template shows besides the run itself."""
    if isinstance(run, ToolRun):
        return {"run": run, "kind": "tool"}
    if isinstance(run, BrowserRun):
        return {"run": run, "kind": "browser", "figures": _browser_figures(run), **browser_text.context(run)}
    return {
        "run": run,
        "kind": "measured",
        "advice": compare_advice.recommendation(run),
        "base": figures.base_in_words(run),
        "systems": [_system(run, name) for name in figures.systems(run)],
        "figures": _figures(run),
        "grids": [_grid(run, threads) for threads in run.plan.threads],
        "hottest": figures.hottest(run),
        "failures": [f for name in figures.systems(run) for f in figures.failures(run, name)],
        "left_out": run.left_out or (),
        "noisy": [{"key": _key(c), "noise": c.noise} for c in run.cases if c.noise],
        "tokenizers": run.tokenizers,
        "accounts": run.accounts,
        "predicted": predicted.context(run),
        "patience": figures.patience(run),
        "corpus": run.corpus,
        "corpus_sentence": corpus_text.sentence(run.corpus) if run.corpus else "",
        "features": [name for name, there in run.machine.features.items() if there],
    }


def _system(run: Run, name: str) -> Context:
    opening = figures.opening(run, name, run.plan.threads[0])
    return {
        "name": name,
        "parity": figures.verdict(run, name),
        "bytes": figures.graph_bytes(run, name),
        "first_s": opening and opening.first_s,
        "cold_s": opening and opening.cold_s,
        "warm_s": figures.warm_load(run, name),
        "first_ms": figures.first_run(run, name),
        "memory": figures.memory(run, name),
        "cosine": figures.accuracy_cell(run, name),
        "wrong": figures.wrong(run, name),
        "composed": figures.composed(run, name),
        "exponent": figures.exponent(run, name, max(run.plan.threads)),
    }


def _grid(run: Run, threads: int) -> Context:
    shapes = run.plan.shapes
    rows = []
    for name in figures.systems(run):
        cases = [figures.case(run, name, threads, shape) for shape in shapes]
        rows.append({"name": name, "wrong": figures.wrong(run, name), "cases": cases})
    return {"threads": threads, "shapes": shapes, "rows": rows}


def _figures(run: Run) -> list[Context]:
    from markupsafe import Markup  # comes with jinja2

    threads = max(run.plan.threads)
    drawn = [_plane(run, threads), _growth(run, threads), _memory(run), _parts(run)]
    return [{**figure, "svg": Markup(figure["svg"])} for figure in drawn if figure]


def _plane(run: Run, threads: int) -> Context | None:
    """A plot of size against latency; the marks show accuracy."""
    lengths = [int(s) for s in run.plan.shapes if s.isdigit()]
    if not lengths:
        return None
    tokens = min(lengths, key=lambda n: abs(n - figures.QUERY_TOKENS))
    points = []
    for name in figures.systems(run):
        size, case = figures.graph_bytes(run, name), figures.case(run, name, threads, str(tokens))
        if size and case and case.median_ms:
            points.append((name, size / 1e6, case.median_ms))
    if not points:
        return None
    # Wrong graphs, and those that nobody ships, do not take part in the Pareto front.
    sound = [f for f in points if _kind(run, f[0]) != "wrong" and _ships(run, f[0])]
    front = _front(run, sound)
    dots = [Dot(size, ms, name, _kind(run, name), name in front) for name, size, ms in points]
    x = Axis("MB on disk", 0, 4 * figures.rounded_up(max(d.x for d in dots) * 1.1 / 4))
    y = _log_axis(f"ms at {tokens} tokens", [d.y for d in dots])
    alt = "; ".join(f"{d.name} {d.x:.0f} MB, {d.y:.3g} ms, {d.kind}" for d in dots)
    return {
        "svg": compare_plots.plane(dots, x, y, f"Size against latency: {alt}"),
        "caption": f"Size against latency at {tokens} tokens on {_threads(threads)}. Full dots: vectors as "
        "the reference's, as the validator asks of int8_q4; hollow: coarser; crosses: wrong. No other "
        f"{'of its model ' if run.plan.bases is not None else ''}beats those in bold in size, latency and "
        f"accuracy together.{_UNKNOWN if any(d.kind == 'unknown' for d in dots) else ''}",
        "legend": [],
    }


def _front(run: Run, points: Sequence[tuple[str, float, float]]) -> set[str]:
    """The names that no other of the same model beats; points are name, size and latency."""
    models: dict[str, list[tuple[str, float, float]]] = {}
    for point in points:
        models.setdefault(figures.base(run, point[0]) or point[0], []).append(point)
    front: set[str] = set()
    for those in models.values():
        on = figures.pareto([(size, ms, figures.coarseness(run, name)) for name, size, ms in those])
        front |= {name for (name, *_), best in zip(those, on, strict=True) if best}
    return front


def _browser_figures(run: BrowserRun) -> list[Context]:
    from markupsafe import Markup  # comes with jinja2

    series = browser_text.series(run)
    if not series:
        return []
    drawn = _lines(series, list(series))
    caption = "Latency against length in this browser; both scales logarithmic."
    return [{"svg": Markup(drawn), "caption": caption, "legend": list(series)}]


def _growth(run: Run, threads: int) -> Context | None:
    series: dict[str, list[tuple[float, float]]] = {}
    for name in figures.systems(run):
        points = sorted(
            (float(c.tokens), c.median_ms)
            for c in figures.cases(run, name, threads)
            if c.batch == 1 and c.median_ms
        )
        if len(points) > 1:
            series[name] = points
    if not series:
        return None
    legend = []
    for name in series:
        growth = figures.exponent(run, name, threads)
        legend.append(f"{name}: grows as length to the {growth:.2f}" if growth is not None else name)
    return {
        "svg": _lines(series, legend),
        "caption": f"Latency against length on {_threads(threads)}; both scales logarithmic. The exponent is "
        "the slope from 64 tokens on: 1 is linear, 2 quadratic.",
        "legend": legend,
    }


def _lines(series: Mapping[str, Sequence[tuple[float, float]]], legend: Sequence[str]) -> str:
    lengths = [a for points in series.values() for a, _ in points]
    x = Axis("tokens", min(lengths), max(lengths), base=2)
    y = _log_axis("ms", [b for points in series.values() for _, b in points])
    return compare_plots.lines(series, x, y, f"Latency against length: {'; '.join(legend)}")


def _memory(run: Run) -> Context | None:
    bars = {}
    for name in figures.systems(run):
        memory = figures.memory(run, name)
        if "anonymous_peak" in memory:
            bars[name] = {
                "own": memory["anonymous_peak"] / 1024,
                "mapped files": memory.get("file_peak", 0) / 1024,
            }
    if not bars:
        return None
    alt = "; ".join(f"{n} {b['own']:.0f} MB own, {b['mapped files']:.0f} MB mapped" for n, b in bars.items())
    return {
        "svg": compare_plots.stacked(bars, "MB", f"Peak memory: {alt}"),
        "caption": f"Peak memory of the whole process with texts of up to {figures.MEMORY_TOKENS} tokens: "
        "its own (anonymous), and mapped files, which the system can drop and read again.",
        "legend": ["own", "mapped files"],
    }


def _parts(run: Run) -> Context | None:
    by_system = figures.parts(run)
    if not by_system:
        return None
    bars = {name: {part: size / 1e6 for part, size in parts.items()} for name, parts in by_system.items()}
    alt = "; ".join(f"{n}: " + ", ".join(f"{p} {v:.0f}" for p, v in b.items()) for n, b in bars.items())
    return {
        "svg": compare_plots.stacked(bars, "MB on disk", f"Files by part, MB: {alt}"),
        "caption": "What the bytes of each graph's files are for.",
        "legend": list(next(iter(bars.values()))),
    }


def _kind(run: Run, name: str) -> str:
    if figures.wrong(run, name):
        return "wrong"
    if figures.base(run, name) is None:
        return "unknown"
    return "coarse" if figures.coarseness(run, name) else "good"


def _ships(run: Run, name: str) -> bool:
    return not isinstance(figures.about(run, name), PerTensorEntry)


def _log_axis(label: str, values: Sequence[float]) -> Axis:
    """From the power of two below the values to the one above them."""
    low, high = math.floor(math.log2(min(values))), math.ceil(math.log2(max(values)) + 1e-9)
    return Axis(label, 2.0**low, 2.0**high, base=2)


def _threads(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"


def _key(case: Case) -> str:
    return f"{case.system}, {_threads(case.threads)}, {case.shape}"


def _megabytes(kilobytes: int | None) -> str:
    return compare_grid.number(kilobytes / 1024 if kilobytes else None)
