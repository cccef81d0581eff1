"""A benchmark as lines for people. Computes no figure that the result does not hold, prints nothing."""

from collections.abc import Callable, Sequence

from embedding_validate.benchmark_run import Loading, Timing

_MARK = "*"


def lines(loadings: Sequence[Loading], timings: Sequence[Timing], files: dict[str, int]) -> list[str]:
    """Loading and memory, then for each number of threads the times and the ratios to the first system."""
    found = [*_loadings(loadings), ""]
    for threads in dict.fromkeys(t.threads for t in timings):
        chosen = [t for t in timings if t.threads == threads]
        first = chosen[0].system
        found += _grid(f"median ms, {threads} threads", chosen, _milliseconds)
        found += _grid(f"times faster than {first}", chosen, lambda t: f"{t.ratio:.2f}")
        found += _grid(f"cosine to {first}", chosen, lambda t: f"{t.cosine:.5f}")
    if any(t.interference for t in timings):
        found += [f"{_MARK} something else was using the CPU: measure again on a quiet machine", ""]
    return [*found, *(f"{name:<36} {size / 1e6:10.1f} MB on disk" for name, size in files.items())]


def _loadings(loadings: Sequence[Loading]) -> list[str]:
    columns = ("threads", "cold s", "load s", "first ms", "anon MB", "of it before", "file MB", "peak MB")
    found = ["loading; memory after a first run of 256 tokens", _row("", columns)]
    for entry in loadings:
        figures = (
            str(entry.threads),
            f"{entry.cold_s:.2f}",
            f"{entry.load_s:.2f}",
            f"{entry.first_run_ms:.0f}",
            _megabytes(entry.memory_run, "RssAnon"),
            _megabytes(entry.memory_before, "RssAnon"),
            _megabytes(entry.memory_run, "RssFile"),
            _megabytes(entry.memory_run, "VmHWM"),
        )
        found.append(_row(entry.system, figures))
    return found


def _grid(title: str, timings: Sequence[Timing], cell: Callable[[Timing], str]) -> list[str]:
    shapes = list(dict.fromkeys(t.shape for t in timings))
    systems = list(dict.fromkeys(t.system for t in timings))
    cells = {(t.system, t.shape): cell(t) for t in timings}
    rows = [_row(s, [cells[s, shape] for shape in shapes]) for s in systems]
    return [_row(title, shapes), *rows, ""]


def _milliseconds(timing: Timing) -> str:
    return f"{timing.median_ms:.1f}{_MARK if timing.interference else ''}"


def _megabytes(memory: dict[str, int], kind: str) -> str:
    return f"{memory[kind] / 1024:.0f}" if kind in memory else "?"


def _row(name: str, cells: Sequence[str]) -> str:
    return f"{name:<28}" + "".join(f"{c:>13}" for c in cells)
