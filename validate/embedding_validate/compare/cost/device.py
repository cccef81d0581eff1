"""A device's rates in one engine, from a micro-benchmark of a few seconds: no graph of a bundle is needed.

Each probe is one operator, or a chain of one, run by the engine itself on made-up numbers; `probes_onnx` and
`probes_litert` build them. What they give is a profile that any graph's work can be priced with.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from embedding_validate.compare.cost.work import Kind
from embedding_validate.compare.document.prediction import DeviceProfile, Engine
from embedding_validate.compare.measure.best_block import block_seconds

# Rows of the left operand at which products are timed: a few tokens are slower for each than many.
ROWS = (16, 64, 256, 1024)
INNER, COLUMNS = 768, 1152
# Up to so many rows, reading the weights counts: these products are timed with so many matrices in turn, as a
# graph has them: 57 MB of int8, 226 MB of float32, which caches of many megabytes do not hold either.
FEW_ROWS = 64
MATRICES = 64
# Of element by element operators.
ELEMENTS_ROWS = 256
_BLOCKS, _BLOCK_SECONDS = 5, 0.006
_TURNS, _ASLEEP_SECONDS = 10, 0.02
# A core's own cache: what the last one leaves to a process, where others share it, nobody tells.
_CACHE = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")
_USUAL_CACHE = 1 << 20

Run = Callable[[], None]
Build = Callable[[], Run]
"""Opens a probe. One is open at a time, two at most: small boards have little memory."""


@dataclass(frozen=True)
class Probes:
    """What one engine offers to be timed.

    `products`, as many at once as `matrices` says, and `scores` with their multiply-accumulates, by rows;
    `stream` reads `stream_bytes` of weights; `layers` is the int8 product of fewest rows with `small`
    operators after each matrix; `elements` by kind, each over `ELEMENTS_ROWS` x `INNER` elements.
    """

    products: Mapping[Kind, Mapping[int, Build]]
    scores: Mapping[int, tuple[int, Build]]
    stream: Build
    stream_bytes: int
    layers: Build
    small: int
    elements: Mapping[Kind, Build]


def profile(engine: Engine, threads: int, streamed: Collection[Kind]) -> DeviceProfile:
    """Time an engine's probes on this device.

    `streamed` are the kinds of weights, int8 at least, that graphs read from beyond the caches. The probes
    take 0.2 GB of memory for a moment, 0.3 GB where float32 is one.

    Raises:
        EngineError: the engine is not installed.
    """
    if engine == "onnx":
        from embedding_validate.compare.cost.probes_onnx import probes
    else:
        from embedding_validate.compare.cost.probes_litert import probes
    timed = probes(threads, streamed)
    started = time.perf_counter()
    rates: dict[str, dict[str, float]] = {
        kind: {
            str(r): matrices(kind, r, streamed) * r * INNER * COLUMNS / seconds(build())
            for r, build in by_rows.items()
        }
        for kind, by_rows in timed.products.items()
    }
    rates["scores"] = {str(rows): macs / seconds(build()) for rows, (macs, build) in timed.scores.items()}
    elements = ELEMENTS_ROWS * INNER
    return DeviceProfile(
        engine=engine,
        threads=threads,
        macs_per_s=rates,
        bytes_per_s=timed.stream_bytes / seconds(timed.stream()),
        element_s={kind: seconds(build()) / elements for kind, build in timed.elements.items()},
        operator_s=_operator_s(timed),
        cache_bytes=_cache_bytes(),
        benchmark_s=round(time.perf_counter() - started, 3),
    )


def _operator_s(timed: Probes) -> float:
    """What an operator on a few rows takes where weights pass through the caches between operators: what
    `layers` takes longer than its products, in turn with them."""
    few = ROWS[0]
    runs = timed.products["int8"][few](), timed.layers()
    taken: tuple[list[float], list[float]] = [], []
    for _ in range(_TURNS):
        for run, seconds_of in zip(runs, taken, strict=True):
            time.sleep(_ASLEEP_SECONDS)  # until the other's threads no longer wait awake
            run()
            started = time.perf_counter()
            run()
            seconds_of.append(time.perf_counter() - started)
    products, layers = map(median, taken)
    return max(0.0, layers - products) / (MATRICES * timed.small)


def matrices(kind: Kind, rows: int, streamed: Collection[Kind]) -> int:
    """The number of matrices that so many rows are multiplied by in turn."""
    return MATRICES if kind in streamed and rows <= FEW_ROWS else 1


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
