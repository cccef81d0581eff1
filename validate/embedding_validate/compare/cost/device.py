"""A device's rates in one engine, from a micro-benchmark of about a second: no graph of a bundle is needed.

Each probe is one operator, or a chain of one, run by the engine itself on made-up numbers; `probes_onnx` and
`probes_litert` build them. What they give is a profile that any graph's work can be priced with.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from embedding_validate.compare.cost.work import Kind
from embedding_validate.compare.document.prediction import DeviceProfile, Engine
from embedding_validate.compare.measure.best_block import block_seconds

# Rows of the left operand at which products are timed: a few tokens are slower for each than many.
ROWS = (16, 64, 256, 1024)
INNER, COLUMNS = 768, 1152
# Up to so many rows, reading the weights counts: these products are timed with so many matrices in turn
# (57 MB), more than caches hold, as a graph has them.
FEW_ROWS = 64
MATRICES = {"int8": 64, "fp32": 16}
# Of element by element operators.
ELEMENTS_ROWS = 256
CHAIN = 64
_BLOCKS, _BLOCK_SECONDS = 5, 0.006
# A core's own cache: what the last one leaves to a process, where others share it, nobody tells.
_CACHE = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")
_USUAL_CACHE = 1 << 20

Run = Callable[[], None]


@dataclass(frozen=True)
class Probes:
    """What one engine offers to be timed, ready to run.

    `products`, as many at once as `matrices` says, and `scores` by rows; `stream` reads `stream_bytes` of
    weights; `chain` is `CHAIN` operators on next to nothing; `elements` by kind, each over `ELEMENTS_ROWS` x
    `INNER` elements.
    """

    products: Mapping[Kind, Mapping[int, Run]]
    scores: Mapping[int, tuple[int, Run]]
    stream: Run
    stream_bytes: int
    chain: Run
    elements: Mapping[Kind, Run]


def profile(engine: Engine, threads: int) -> DeviceProfile:
    """Time an engine's probes on this device.

    Raises:
        EngineError: the engine is not installed.
    """
    if engine == "onnx":
        from embedding_validate.compare.cost.probes_onnx import probes
    else:
        from embedding_validate.compare.cost.probes_litert import probes
    timed = probes(threads)
    started = time.perf_counter()
    operator_s = seconds(timed.chain) / CHAIN
    rates: dict[str, dict[str, float]] = {
        kind: {str(r): matrices(kind, r) * r * INNER * COLUMNS / seconds(run) for r, run in by_rows.items()}
        for kind, by_rows in timed.products.items()
    }
    rates["scores"] = {str(rows): macs / seconds(run) for rows, (macs, run) in timed.scores.items()}
    elements = ELEMENTS_ROWS * INNER
    return DeviceProfile(
        engine=engine,
        threads=threads,
        macs_per_s=rates,
        bytes_per_s=timed.stream_bytes / seconds(timed.stream),
        element_s={k: max(0.0, seconds(run) - operator_s) / elements for k, run in timed.elements.items()},
        operator_s=operator_s,
        cache_bytes=_cache_bytes(),
        benchmark_s=round(time.perf_counter() - started, 3),
    )


def matrices(kind: str, rows: int) -> int:
    """The number of matrices that so many rows are multiplied by in turn."""
    return MATRICES[kind] if rows <= FEW_ROWS else 1


def seconds(run: Run) -> float:
    """Seconds of one run: the median of a few blocks of some milliseconds, as what is predicted is one."""
    run()
    started = time.perf_counter()
    run()
    return median(block_seconds(run, time.perf_counter() - started, _BLOCK_SECONDS, _BLOCKS))


def typical(profiles: Sequence[DeviceProfile]) -> DeviceProfile:
    """The medians of what profiles of one engine on one number of threads say, taken at different times."""
    first = profiles[0]
    return replace(
        first,
        macs_per_s={
            kind: {rows: median(p.macs_per_s[kind][rows] for p in profiles) for rows in by_rows}
            for kind, by_rows in first.macs_per_s.items()
        },
        bytes_per_s=median(p.bytes_per_s for p in profiles),
        element_s={kind: median(p.element_s[kind] for p in profiles) for kind in first.element_s},
        operator_s=median(p.operator_s for p in profiles),
        benchmark_s=round(sum(p.benchmark_s for p in profiles), 3),
    )


def _cache_bytes() -> int:
    """Of a core's own cache, which the system may not tell."""
    try:
        return int(_CACHE.read_text(encoding="ascii").strip().removesuffix("K")) * 1024
    except (OSError, ValueError):
        return _USUAL_CACHE
