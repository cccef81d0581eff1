"""Reads logs of phones' own tools, and published figures, as runs of `compare.json`.

It understands two tools: LiteRT's `benchmark_model` and `onnxruntime_perf_test` (see PHONES.md for how to run
them over adb). Lines `# name: value` before a tool's output give what the output lacks: device, graph,
tokens, threads. A log may hold several outputs; a device applies until another is named.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from embedding_runtime.errors import InputError
from embedding_validate.compare.document.tool_run import PublishedCase, ToolCase, ToolFigures, ToolRun

_HEADER = re.compile(r"^# (\w+): *(.+?) *$", re.M)
PUBLISHED: Literal["published"] = "published"
_REQUIRED = ("device", "graph")
# benchmark_model: microseconds; newer versions add percentiles. Equal runs have a line without figures.
_COUNT = re.compile(
    r"count=(?P<count>\d+) first=(?P<first>\d+) curr=\d+ min=\d+ max=\d+ avg=(?P<avg>[\d.e+]+) std=\d+"
    r"(?: p5=(?P<p5>\d+) median=(?P<median>\d+) p95=(?P<p95>\d+))?"
)
_TIMINGS = re.compile(
    r"Inference timings in us: Init: (?P<init>[\d.e+]+), First inference: (?P<first>[\d.e+]+), "
    r"Warmup \(avg\): [\d.e+]+, Inference \(avg\): (?P<avg>[\d.e+]+)"
)
_FOOTPRINT = re.compile(
    r"emory footprint(?: delta from the start of the tool)? \(MB\): init=\S+ overall=([\d.]+)"
)
_SIGNATURE = re.compile(r"Signature to run: \[embed_(\d+)\]")
_THREADS = re.compile(r"(?:#threads used for CPU inference|Num threads): \[(\d+)\]")
# onnxruntime_perf_test; "inference" and its plural came and went over the years.
_AVERAGE = re.compile(r"Average (?:inference )?time cost(?: total)?: ?([\d.e+-]+) ms")
_SESSION = re.compile(r"Session creation time cost: ?([\d.e+-]+) s")
_RUNS = re.compile(r"Total (?:iterations|inference requests): ?(\d+)")
_PERCENTILE = re.compile(r"P(\d+) Latency(?: is|:) ?([\d.e+-]+) ?s")
_PEAK = re.compile(r"Peak working set size: (\d+) bytes")


@dataclass(frozen=True)
class _Figures(ToolFigures):
    """The figures of one output, with what it says of its own settings."""

    tokens: int | None
    threads: int | None


def read(path: Path) -> list[ToolRun]:
    """The runs of a log, one per device and tool, or of a file of published figures.

    Raises:
        InputError: no such file, no output of a tool that is known, or a header that is missing.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as e:
        raise InputError(f"{path} cannot be read ({e}).") from e
    if path.suffix == ".json":
        return [_published(path, text)]
    cases: dict[tuple[str, str], list[ToolCase]] = {}
    runs: dict[tuple[str, str], ToolRun] = {}
    for header, output in _sections(text):
        tool, figures = _figures(path, output)
        if missing := [name for name in _REQUIRED if name not in header]:
            raise InputError(f"{path} lacks the line '# {missing[0]}: ...' before the output of {tool}.")
        at = (header["device"], tool)
        runs.setdefault(at, _run(path, header, tool))
        cases.setdefault(at, []).append(_case(path, header, figures))
    if not runs:
        raise InputError(
            f"{path} holds no output of benchmark_model or onnxruntime_perf_test, and is not a compare.json."
        )
    return [replace(run, cases=tuple(cases[at])) for at, run in runs.items()]


def _sections(text: str) -> Iterator[tuple[dict[str, str], str]]:
    """Headers and the output that follows them; a header applies until it is given again."""
    header: dict[str, str] = {}
    at = 0
    for match in _HEADER.finditer(text):
        if text[at : match.start()].strip():
            yield dict(header), text[at : match.start()]
            header.pop("tokens", None)
        header[match[1].lower()] = match[2]
        at = match.end()
    if text[at:].strip():
        yield dict(header), text[at:]


def _figures(path: Path, output: str) -> tuple[str, _Figures]:
    """Which tool wrote an output, and the figures in it."""
    if timings := _TIMINGS.search(output):
        return "benchmark_model", _of_benchmark_model(output, timings)
    if average := _AVERAGE.search(output):
        return "onnxruntime_perf_test", _of_perf_test(output, float(average[1]))
    raise InputError(
        f"{path}: an output begins with {output.strip()[:60]!r} and has neither benchmark_model's line "
        "'Inference timings in us' nor onnxruntime_perf_test's 'Average inference time cost'."
    )


def _of_benchmark_model(output: str, timings: "re.Match[str]") -> _Figures:
    counts = list(_COUNT.finditer(output))
    last = counts[-1].groupdict() if counts else {}
    signature, threads, memory = (p.search(output) for p in (_SIGNATURE, _THREADS, _FOOTPRINT))
    median, p5, p95 = (float(v) / 1e3 if (v := last.get(p)) else None for p in ("median", "p5", "p95"))
    return _Figures(
        mean_ms=float(timings["avg"]) / 1e3,
        median_ms=median,
        p5_ms=p5,
        p95_ms=p95,
        first_ms=float(timings["first"]) / 1e3,
        load_s=float(timings["init"]) / 1e6,
        runs=int(last.get("count") or 0),
        memory_bytes=int(float(memory[1]) * 1e6) if memory else None,
        tokens=int(signature[1]) if signature else None,
        threads=int(threads[1]) if threads else None,
    )


def _of_perf_test(output: str, mean_ms: float) -> _Figures:
    session, runs, peak = (p.search(output) for p in (_SESSION, _RUNS, _PEAK))
    percentiles = {int(p): 1e3 * float(s) for p, s in _PERCENTILE.findall(output)}
    return _Figures(
        mean_ms=mean_ms,
        median_ms=percentiles.get(50),
        p5_ms=None,
        p95_ms=percentiles.get(95),
        first_ms=None,
        load_s=float(session[1]) if session else None,
        runs=int(runs[1]) if runs else 0,
        memory_bytes=int(peak[1]) if peak else None,
        tokens=None,
        threads=None,
    )


def _case(path: Path, header: dict[str, str], figures: _Figures) -> ToolCase:
    """A case; the tool's own figures take precedence over the header's."""
    counts = {
        name: str(figure or header.get(name, ""))
        for name, figure in (("tokens", figures.tokens), ("threads", figures.threads))
    }
    for name, value in counts.items():
        if not value.isdigit():
            raise InputError(f"{path} lacks the line '# {name}: NUMBER' for {header['graph']}.")
    return ToolCase(
        figures.mean_ms,
        figures.median_ms,
        figures.p5_ms,
        figures.p95_ms,
        figures.first_ms,
        figures.load_s,
        figures.runs,
        figures.memory_bytes,
        int(counts["tokens"]),
        int(counts["threads"]),
        system=header["graph"],
        batch=1,
        status="measured",
        reason=None,
    )


def _run(path: Path, header: dict[str, str], tool: str) -> ToolRun:
    return ToolRun(
        label=header["device"],
        origin=tool,
        started=header.get("date", ""),
        complete=True,
        note=f"Measured by {tool} on {header['device']}; read from {path.name}.",
        source=str(path),
        cases=(),
    )


def _published(path: Path, text: str) -> ToolRun:
    """{"published": name, "source": where, "cases": [{system, tokens, ms; threads, memory_mb, note}, ...]}"""
    try:
        data = json.loads(text)
        cases = tuple(
            PublishedCase(
                system=str(c["system"]),
                threads=None if c.get("threads") is None else int(c["threads"]),
                tokens=int(c["tokens"]),
                batch=1,
                status=PUBLISHED,
                reason=None if c.get("note") is None else str(c["note"]),
                mean_ms=float(c["ms"]),
                memory_bytes=round(float(c["memory_mb"]) * 1e6) if "memory_mb" in c else None,
            )
            for c in data["cases"]
        )
        label, source = str(data["published"]), str(data["source"])
    except (ValueError, KeyError, TypeError) as e:
        raise InputError(
            f"{path} is neither a compare.json nor published figures: an object with published, source and "
            f"cases of system, tokens and ms ({e})."
        ) from e
    return ToolRun(
        label=label,
        origin=PUBLISHED,
        started=str(data.get("date", "")),
        complete=True,
        note=f"Published, not measured here: {source}",
        source=source,
        cases=cases,
    )
