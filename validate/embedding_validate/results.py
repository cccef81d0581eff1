"""What a comparison found, as frozen dataclasses, and `parity.json`. Compares nothing itself."""

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from embedding_runtime.bundle import Graph, Parity, Source, Status
from embedding_validate.golden import GoldenCase
from embedding_validate.metrics import Figures, Summary, summarize
from embedding_validate.ranking import Ranking

PARITY = "parity.json"
SCHEMA_VERSION = 1
# The check against the graph's own weights; all others are against the reference's.
EXECUTED = "execution"
# A text in a longer bucket than its smallest.
IN_BUCKET = "bucket {}"
# Upper ends of the length classes in tokens.
_LENGTHS = (16, 64, 256, 512, 1024)
# Of a text that failed, how much the report shows.
_MOST_CHARACTERS = 200


@dataclass(frozen=True)
class Case:
    """One probe in one arrangement (`alone`, `batch 2`, `dim 256`, ...).

    `prompt` is the prompt's name, the verb, or ""; `tokens` counts the reference's ids; `ids_equal` is None
    where ids were not looked at. `failures` says in words what fell short; empty means passed.
    """

    probe: str
    script: str
    prompt: str
    check: str
    tokens: int
    ids_equal: bool | None
    figures: Figures
    failures: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """What is wrong, by name, and the evidence in words; cosines are the least over the evidence."""

    name: str
    evidence: str
    cosine_to_reference: float | None
    cosine_to_fault: float | None


@dataclass(frozen=True)
class Group:
    """The checks of one length class, script, prompt or dim."""

    checks: int
    failed: int
    cosine: Summary
    max_abs_error: Summary


@dataclass(frozen=True)
class Invariance:
    """Largest absolute differences between vectors that should be the same, without the reference's help.

    `batch`: alone against padded in a batch; `runs`: the same call twice; `threads`: one thread against all;
    `buckets`: in longer buckets, by the engine's plain interpreter, against the smallest. None where it was
    not measured. All of them for vectors of norm 1; for longer ones, divided by the norm.
    """

    batch: float | None
    runs: float | None
    threads: float | None
    buckets: float | None = None


@dataclass(frozen=True)
class WeightReport:
    """How many stored tensors were compared with the checkpoint's, and what is wrong with which."""

    compared: int
    failures: tuple[str, ...]


@dataclass(frozen=True)
class GraphReport:
    """The verdict on one graph; `mismatches` are facts besides vectors (a prompt, a length) that differ."""

    status: Status
    reason: str | None
    variant_id: str
    precision: str
    thresholds: dict[str, float]
    texts: int
    checks: int
    failed: int
    cosine: Summary | None
    max_abs_error: Summary | None
    seconds: float
    mismatches: tuple[str, ...]
    golden: tuple[GoldenCase, ...]
    cases: tuple[Case, ...]
    groups: dict[str, dict[str, Group]]
    ranking: Ranking | None
    invariance: Invariance | None
    failed_texts: dict[str, str]
    weights: WeightReport | None = None
    findings: tuple[Finding, ...] = ()

    def as_parity(self, versions: dict[str, str]) -> Parity:
        """The short form that the exporter keeps in the manifest."""
        named = "; ".join(f"diagnosis: {f.name} ({f.evidence})" for f in self.findings)
        return Parity(
            status=self.status,
            reason="; ".join(filter(None, (self.reason, named))) or None,
            texts=self.texts,
            cosine_min=_finite(self.cosine.minimum) if self.cosine else None,
            max_abs_error=_finite(self.max_abs_error.maximum) if self.max_abs_error else None,
            thresholds=self.thresholds,
            versions=versions,
        )


@dataclass(frozen=True)
class Report:
    """All that `parity.json` holds. `graphs` is keyed by `Graph.key`, e.g. `onnx/fp32`."""

    probes: str
    bundle: dict[str, str]
    reference: Source
    versions: dict[str, str]
    machine: dict[str, str]
    graphs: Mapping[str, GraphReport]
    notes: tuple[str, ...] = ()
    schema_version: int = field(default=SCHEMA_VERSION)

    @property
    def passed(self) -> bool:
        """Whether there is a graph, and every graph passed."""
        return bool(self.graphs) and all(g.status == "passed" for g in self.graphs.values())

    def to_json(self) -> str:
        """The report as JSON; figures that are NaN or infinite become null."""
        return json.dumps(plain(asdict(self)), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def write(self, bundle: Path) -> Path:
        """Write `parity.json` into the bundle, atomically.

        Raises:
            OSError: the bundle cannot be written to.
        """
        return replace_text(bundle / PARITY, self.to_json())


def replace_text(path: Path, text: str) -> Path:
    """Write text as UTF-8 to a sibling of `path`, then rename it, so that no half file is seen.

    Raises:
        OSError: the folder cannot be written to.
    """
    return replace_bytes(path, text.encode("utf-8"))


def replace_bytes(path: Path, data: bytes) -> Path:
    """Write bytes to a sibling of `path`, then rename it, so that no half file is seen.

    Raises:
        OSError: the folder cannot be written to.
    """
    sibling = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        sibling.write_bytes(data)
        sibling.replace(path)
    finally:
        sibling.unlink(missing_ok=True)
    return path


@dataclass(frozen=True)
class Found:
    """Everything that was found about one graph, before a verdict."""

    cases: tuple[Case, ...]
    mismatches: tuple[str, ...]
    golden: tuple[GoldenCase, ...] = ()
    ranking: Ranking | None = None
    invariance: Invariance | None = None
    weights: WeightReport | None = None
    texts: Mapping[str, str] = field(default_factory=dict)


def graph_report(graph: Graph, thresholds: dict[str, float], found: Found, seconds: float) -> GraphReport:
    """Verdict on a graph and summary of what was found."""
    reason = _reason(found, thresholds, graph.buckets)
    return GraphReport(
        status="failed" if reason else "passed",
        reason=reason,
        variant_id=graph.variant_id,
        precision=graph.precision,
        thresholds=thresholds,
        texts=len({c.probe for c in found.cases}),
        checks=len(found.cases),
        failed=sum(bool(c.failures) for c in found.cases),
        cosine=summarize(_cosines(found.cases, executed=False)),
        max_abs_error=summarize([c.figures.max_abs_error for c in found.cases if c.check != EXECUTED]),
        seconds=round(seconds, 2),
        mismatches=found.mismatches,
        golden=found.golden,
        cases=found.cases,
        groups=_groups(found.cases),
        ranking=found.ranking,
        invariance=found.invariance,
        weights=found.weights,
        failed_texts={
            c.probe: found.texts[c.probe][:_MOST_CHARACTERS]
            for c in found.cases
            if c.failures and c.probe in found.texts
        },
    )


def length_class(tokens: int) -> str:
    """The class of lengths, in tokens, that a probe falls in."""
    longest = next((c for c in _LENGTHS if tokens <= c), None)
    return f"<= {longest}" if longest else f"> {_LENGTHS[-1]}"


def _groups(cases: tuple[Case, ...]) -> dict[str, dict[str, Group]]:
    """Summaries of the checks alone, by length class, script and prompt, and of dims by dim."""
    alone = [c for c in cases if c.check == "alone"]
    keys: dict[str, tuple[list[Case], Callable[[Case], str]]] = {
        "length": (sorted(alone, key=lambda c: c.tokens), lambda c: length_class(c.tokens)),
        "script": (alone, lambda c: c.script),
        "prompt": (alone, lambda c: c.prompt or "none"),
        "arrangement": (list(cases), lambda c: c.check),
    }
    return {name: _grouped(chosen, key) for name, (chosen, key) in keys.items()}


def _grouped(cases: list[Case], key: Callable[[Case], str]) -> dict[str, Group]:
    members: dict[str, list[Case]] = {}
    for case in cases:
        members.setdefault(key(case), []).append(case)
    return {name: _group(chosen) for name, chosen in members.items()}


def _group(cases: list[Case]) -> Group:
    cosine = summarize([c.figures.cosine for c in cases])
    error = summarize([c.figures.max_abs_error for c in cases])
    assert cosine and error
    return Group(len(cases), sum(bool(c.failures) for c in cases), cosine, error)


def _cosines(cases: tuple[Case, ...], executed: bool) -> list[float]:
    return [c.figures.cosine for c in cases if (c.check == EXECUTED) is executed]


def _reason(found: Found, thresholds: dict[str, float], buckets: tuple[int, ...]) -> str | None:
    parts = list(found.mismatches[:3])
    for executed in (False, True):
        mean = summarize(_cosines(found.cases, executed))
        least = thresholds["execution_cosine_mean" if executed else "cosine_mean"] if mean else 0.0
        if mean and not mean.mean >= least:
            what = " of the execution" if executed else ""
            parts.append(f"the mean cosine{what} {mean.mean:.7f} is below {least}")
    if found.weights and found.weights.failures:
        wrong = found.weights.failures
        parts.append(f"{len(wrong)} stored tensors are not the checkpoint's: {'; '.join(wrong[:3])}")
    parts += _changes(found.invariance, thresholds["batch_error"])
    if failed := [c for c in found.cases if c.failures]:
        worst = min(failed, key=lambda c: (not math.isnan(c.figures.cosine), c.figures.cosine))
        parts.append(
            f"{len(failed)} of {len(found.cases)} checks fell short, worst {worst.probe!r} ({worst.check}, "
            f"{worst.tokens} tokens): {'; '.join(worst.failures)}{_buckets_of(failed, buckets)}"
        )
    if missed := [g for g in found.golden if not g.passed]:
        parts.append(
            f"{len(missed)} of {len(found.golden)} golden figures missed, first {missed[0].id!r}: "
            f"{missed[0].found:.5f} instead of {missed[0].printed:.5f}"
        )
    if not found.cases:
        parts.append("nothing was compared")
    return "; ".join(parts) or None


def _buckets_of(failed: list[Case], buckets: tuple[int, ...]) -> str:
    """In which lengths of a LiteRT file it went wrong, where others are right."""
    longer = {IN_BUCKET.format(b): b for b in buckets}
    wrong = {longer[c.check] for c in failed if c.check in longer}
    for case in (c for c in failed if buckets and c.check in ("alone", EXECUTED)):
        wrong.add(next((b for b in buckets if case.tokens <= b), buckets[-1]))
    if not wrong or len(wrong) == len(buckets):
        return ""
    return f"; all of those alone in bucket {', '.join(map(str, sorted(wrong)))}"


def _changes(invariance: Invariance | None, most: float) -> list[str]:
    """With what vectors change that should not, in words."""
    if invariance is None:
        return []
    measured = {"batch": invariance.batch, "bucket": invariance.buckets}
    return [
        f"vectors change with the {what}, by up to {value:.1e}"
        for what, value in measured.items()
        if value is not None and not value <= most
    ]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def plain(value: Any) -> Any:
    """The same value with every non-finite float replaced by None."""
    if isinstance(value, float):
        return _finite(value)
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value
