"""Figures derived from a run of `compare.json`: a system's size, loading, memory, growth, accuracy.

All are pure functions of the document; a figure that it does not hold is None.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from embedding_validate.compare.document.case import MEASURED, Case
from embedding_validate.compare.document.document import (
    Accuracy,
    BundleEntry,
    GraphEntry,
    ManifestVerdict,
    Opening,
    PeerEntry,
    ReportVerdict,
    Run,
    SystemEntry,
)
from embedding_validate.measures.thresholds import threshold

# Memory is quoted at this length, or at the longest below it: what most texts need.
MEMORY_TOKENS = 256
# The measured length nearest to it stands for a query.
QUERY_TOKENS = 64
# Below it a fixed cost hides how latency grows.
_GROWTH_TOKENS = 64
# The precisions whose bounds are what nobody can do without, and what is as good as the reference to most.
NONSENSE, FINE = "int4", "int8_q4"
_STEPS = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)


def systems(run: Run) -> list[str]:
    """Names in the order they were given."""
    return list(run.plan.systems)


def graphs(run: Run) -> list[str]:
    """Names of the bundles' graphs."""
    return [entry.name for entry in run.systems if isinstance(entry, GraphEntry)]


def cases(run: Run, system: str, threads: int | None = None) -> list[Case]:
    """The measured cases of a system, at a number of threads if one is given."""
    return [
        c for c in run.cases if c.system == system and c.status == MEASURED and threads in (None, c.threads)
    ]


def base(run: Run, system: str) -> str | None:
    """The system whose vectors its accuracy is measured against; None where there is none of its model.

    Older results measure graphs of several models against one base: only those of its bundle's model count.
    """
    if run.plan.bases is not None:
        return run.plan.bases.get(system)
    of_one_model = len(spaces(run)) < 2 or _space(run, system) == _space(run, run.plan.base) is not None
    return run.plan.base if of_one_model else None


def _space(run: Run, system: str) -> str | None:
    """The space of a graph's vectors; None for other systems."""
    entry = about(run, system)
    paths = {bundle.path: bundle.space_id for bundle in run.bundles}
    return paths.get(entry.bundle) if isinstance(entry, GraphEntry) else None


def spaces(run: Run) -> dict[str, list[BundleEntry]]:
    """The bundles of each model, by the space of its vectors."""
    found: dict[str, list[BundleEntry]] = {}
    for bundle in run.bundles:
        found.setdefault(bundle.space_id, []).append(bundle)
    return found


def case(run: Run, system: str, threads: int, shape: str) -> Case | None:
    """A system's case, measured or not."""
    return next((c for c in run.cases if (c.system, c.threads, c.shape) == (system, threads, shape)), None)


def about(run: Run, system: str) -> SystemEntry:
    """The run's entry on a system."""
    return next(entry for entry in run.systems if entry.name == system)


def verdict(run: Run, system: str) -> ReportVerdict | ManifestVerdict | None:
    """The verdict on a graph of a bundle; None for other systems."""
    entry = about(run, system)
    return entry.parity if isinstance(entry, GraphEntry) else None


def composed(run: Run, system: str) -> str:
    """What a graph was composed for, in words; empty for others."""
    entry = about(run, system)
    target = entry.target_cosine if isinstance(entry, GraphEntry) else None
    return f"composed for a mean cosine of {target:g}" if target is not None else ""


def graph_bytes(run: Run, system: str) -> int | None:
    """Bytes of the files that a system opens, its tokenizer left out."""
    if size := run.sizes.get(system):
        return size.bytes
    entry = about(run, system)
    return None if isinstance(entry, PeerEntry) else entry.bytes


def disk_bytes(run: Run, system: str) -> int | None:
    """Bytes that a device needs: the graph's files and, for our graphs, the tokenizer."""
    size, entry = graph_bytes(run, system), about(run, system)
    return size + entry.tokenizer_bytes if size is not None and isinstance(entry, GraphEntry) else size


def warm_load(run: Run, system: str, threads: int | None = None) -> float | None:
    """Seconds of opening in a fresh process, files in the page cache: the median over its cases."""
    seconds = [c.load_s for c in cases(run, system, threads) if c.load_s is not None]
    return median(seconds) if seconds else None


def opening(run: Run, system: str, threads: int) -> Opening | None:
    """Its opening at a number of threads."""
    return next((o for o in run.openings if (o.system, o.threads) == (system, threads)), None)


def parts(run: Run) -> dict[str, dict[str, int]]:
    """Bytes of the parts of each graph whose parts are known."""
    entries = (entry for entry in run.systems if isinstance(entry, GraphEntry))
    return {entry.name: entry.parts for entry in entries if entry.parts}


def memory(run: Run, system: str) -> dict[str, int]:
    """kB at `MEMORY_TOKENS` (one text), or at the longest length below it, or else at the shortest; on most
    threads."""
    ordered = sorted(
        (c for c in cases(run, system) if c.batch == 1 and c.memory), key=lambda c: (c.tokens, c.threads)
    )
    fitting = [c for c in ordered if c.tokens <= MEMORY_TOKENS]
    return next((c.memory for c in fitting[-1:] or ordered[:1]), {})


def hottest(run: Run) -> float | None:
    """°C of the hottest sensor in any case; None if none is readable."""
    degrees = [t for c in run.cases if (t := c.machine_state.get("celsius")) is not None]
    return max(degrees, default=None)


def first_run(run: Run, system: str) -> float | None:
    """Milliseconds of the first run of a fresh process, one text of about `QUERY_TOKENS`, on most threads."""
    runs = [c for c in cases(run, system) if c.batch == 1 and c.first_ms is not None]
    nearest = min(runs, key=lambda c: (abs(c.tokens - QUERY_TOKENS), -c.threads), default=None)
    return None if nearest is None else nearest.first_ms


def exponent(run: Run, system: str, threads: int) -> float | None:
    """How latency grows with length: the slope of log ms over log tokens from 64 tokens on, by least squares.

    1 is linear, 2 quadratic; None for fewer than two lengths.
    """
    points = [
        (math.log(c.tokens), math.log(c.median_ms))
        for c in cases(run, system, threads)
        if c.batch == 1 and c.tokens >= _GROWTH_TOKENS and c.median_ms
    ]
    if len(points) < 2:
        return None
    x0, y0 = (sum(values) / len(points) for values in zip(*points, strict=True))
    slope = sum((x - x0) * (y - y0) for x, y in points) / sum((x - x0) ** 2 for x, _ in points)
    return float(slope)


def cosine(run: Run, system: str) -> float | None:
    """The smallest cosine to the accuracy's base over the texts; in older results, over random token ids."""
    if accuracy := _accuracy(run, system):
        return accuracy.minimum
    cosines = [c.cosine for c in cases(run, system) if base(run, system)]
    measured = [least for least in cosines if least is not None]
    return min(measured) if measured and len(measured) == len(cosines) else None


def accuracy_cell(run: Run, system: str) -> str:
    """That cosine as tables show it, or why there is none."""
    if base(run, system) is None:
        return "no base"
    least = cosine(run, system)
    return "–" if least is None else f"{least:.4f}"


def base_in_words(run: Run) -> str:
    """Whose vectors the cosines are to."""
    if run.plan.bases is None:
        return run.plan.base
    names = ", ".join(dict.fromkeys(run.plan.bases.values())) or "none here"
    return f"the most exact of the same model ({names}; no base: nothing else here is of that model)"


def _accuracy(run: Run, system: str) -> Accuracy | None:
    """Least and mean cosine over the texts; None where that was not measured, or to another model's."""
    if base(run, system) is None:
        return None
    return next((o.accuracy for o in run.openings if o.system == system), None)


def wrong(run: Run, system: str) -> str | None:
    """Why a system does not give the model's vectors, in words; None if nothing indicates it.

    For our graphs the comparison with the reference decides. For other systems, and if there was no
    comparison, the validator's bounds of the precision apply to the cosine to the accuracy's base: another
    model's vectors make nothing wrong.
    """
    parity, entry = verdict(run, system), about(run, system)
    if parity and parity.status == "failed":
        return f"failed its comparison: {parity.reason}"
    if parity and parity.status == "passed":
        return None
    if short := _short_of(run, system, entry.precision if isinstance(entry, GraphEntry) else NONSENSE):
        return f"not the same model: {short} to {base(run, system)}"
    return None


def _short_of(run: Run, system: str, precision: str) -> str | None:
    """Which of the validator's bounds of a precision are missed, in words; None if none is.

    Results older than accuracy on texts have only the smallest cosine.
    """
    bounds = threshold(precision, _random_weights(run, system))
    accuracy, least = _accuracy(run, system), cosine(run, system)
    if least is not None and least < bounds.cosine_min:
        return f"cosine {least:.4f}, below {bounds.cosine_min:g},"
    if accuracy and accuracy.mean < bounds.cosine_mean:
        return f"cosine {accuracy.mean:.4f} on average, below {bounds.cosine_mean:g},"
    return None


def _random_weights(run: Run, system: str) -> bool:
    """Whether a bundle of its model is a stand-in."""
    entries, own_base = (e for e in run.systems if isinstance(e, GraphEntry)), base(run, system)
    own = {e.bundle for e in entries if e.name == system or own_base == base(run, e.name) is not None}
    return any(bundle.random_weights for bundle in run.bundles if bundle.path in own)


@dataclass(frozen=True)
class Failure:
    """Cases and openings of a system that ended badly for one reason; `where` names them."""

    system: str
    status: str
    reason: str | None
    where: str


def failures(run: Run, system: str) -> list[Failure]:
    """Its cases and openings that ended badly, by reason."""
    by_reason: dict[tuple[str, str | None], list[str]] = {}
    entries: tuple[Opening | Case, ...] = (*run.openings, *run.cases)
    for entry in entries:
        if entry.system == system and entry.status != MEASURED:
            where = f"{entry.shape} tokens" if isinstance(entry, Case) else "opening"
            by_reason.setdefault((entry.status, entry.reason), []).append(f"{where} on {entry.threads}")
    return [Failure(system, *reason, ", ".join(where)) for reason, where in by_reason.items()]


def patience(run: Run) -> str:
    """The time limit for a system's answers, in words; empty for a run without a limit."""
    limit = run.plan.limit
    return f", ended where there is no answer within {limit:g} s" if limit else ""


def coarseness(run: Run, system: str) -> int:
    """1 if a system misses the validator's bounds for int8_q4, else 0; 0 if that is unknown.

    Only systems of one base may be compared by it. One that is not coarse is never given up for a faster one
    that is.
    """
    return int(_short_of(run, system, FINE) is not None)


def doubts(run: Run, system: str) -> list[str]:
    """Doubts about a graph, which must be stated before it is recommended."""
    sentences, measured = [], cases(run, system)
    if (parity := verdict(run, system)) and parity.status == "not run":
        sentences.append(f"nobody has compared {system} with the reference")
    if measured and all(c.noise for c in measured):
        sentences.append(f"every figure of {system} was disturbed")
    return sentences


def rounded_up(value: float) -> float:
    """The next of 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 15 ... and so in every magnitude."""
    scale = 10.0 ** math.floor(math.log10(value))
    return next(step * scale for step in _STEPS if step * scale >= value * (1 - 1e-9))


def pareto(points: Sequence[tuple[float, ...]]) -> list[bool]:
    """For each point, all of whose numbers are better when smaller, whether no other is as good in all of
    them and better in one."""
    return [
        not any(all(a <= b for a, b in zip(q, p, strict=True)) and q != p for q in points) for p in points
    ]
