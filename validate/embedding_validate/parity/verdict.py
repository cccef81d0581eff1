"""The verdict on one graph, and the summaries of its results by length class, script, prompt and dim.

All functions are pure: they take cases and thresholds.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from embedding_runtime.bundle import Graph
from embedding_validate.measures.metrics import summarize
from embedding_validate.measures.ranking import Ranking, ScoreShift
from embedding_validate.parity.results import (
    EXECUTED,
    IN_BUCKET,
    TOKEN_STATES,
    Case,
    GraphReport,
    Group,
    Invariance,
    WeightReport,
)
from embedding_validate.probes.probes import HELD_OUT
from embedding_validate.tutorial.golden import GoldenCase

# Upper ends of the length classes in tokens.
_LENGTHS = (16, 64, 256, 512, 1024)
# Characters of a failed text shown in the report.
_MOST_CHARACTERS = 200


@dataclass(frozen=True)
class Results:
    """All results of one graph, before a verdict."""

    cases: tuple[Case, ...]
    mismatches: tuple[str, ...]
    golden: tuple[GoldenCase, ...] = ()
    ranking: Ranking | None = None
    scores: ScoreShift | None = None
    invariance: Invariance | None = None
    weights: WeightReport | None = None
    texts: Mapping[str, str] = field(default_factory=dict)


def graph_report(graph: Graph, thresholds: dict[str, float], results: Results, seconds: float) -> GraphReport:
    """The verdict on a graph, and a summary of its results."""
    reason = _reason(results, thresholds, graph.buckets)
    vectors = [c for c in results.cases if c.check not in (EXECUTED, TOKEN_STATES)]
    return GraphReport(
        status="failed" if reason else "passed",
        reason=reason,
        variant_id=graph.variant_id,
        precision=graph.precision,
        thresholds=thresholds,
        texts=len({c.probe for c in results.cases}),
        checks=len(results.cases),
        failed=sum(bool(c.failures) for c in results.cases),
        cosine=summarize([c.figures.cosine for c in vectors]),
        max_abs_error=summarize([c.figures.max_abs_error for c in vectors]),
        norm_error=summarize([c.figures.norm_error for c in vectors]),
        not_finite=sum(not c.figures.finite for c in vectors),
        ids_compared=sum(c.ids_equal is not None for c in results.cases),
        ids_differ=sum(c.ids_equal is False for c in results.cases),
        seconds=round(seconds, 2),
        mismatches=results.mismatches,
        golden=results.golden,
        cases=results.cases,
        groups=_groups(results.cases),
        ranking=results.ranking,
        scores=results.scores,
        invariance=results.invariance,
        weights=results.weights,
        failed_texts={
            c.probe: results.texts[c.probe][:_MOST_CHARACTERS]
            for c in results.cases
            if c.failures and c.probe in results.texts
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
    return {name: _grouped(members, key) for name, (members, key) in keys.items()}


def _grouped(cases: list[Case], key: Callable[[Case], str]) -> dict[str, Group]:
    members: dict[str, list[Case]] = {}
    for case in cases:
        members.setdefault(key(case), []).append(case)
    return {name: _group(group) for name, group in members.items()}


def _group(cases: list[Case]) -> Group:
    cosine = summarize([c.figures.cosine for c in cases])
    error = summarize([c.figures.max_abs_error for c in cases])
    assert cosine and error
    return Group(len(cases), sum(bool(c.failures) for c in cases), cosine, error)


def _cosines(cases: tuple[Case, ...], executed: bool) -> list[float]:
    """The cosines of the execution check, or of all vectors that are compared with the reference's."""
    return [c.figures.cosine for c in cases if (c.check == EXECUTED) is executed and c.check != TOKEN_STATES]


def _reason(results: Results, thresholds: dict[str, float], buckets: tuple[int, ...]) -> str | None:
    parts = list(results.mismatches[:3])
    for executed in (False, True):
        mean = summarize(_cosines(results.cases, executed))
        least = thresholds["execution_cosine_mean" if executed else "cosine_mean"] if mean else 0.0
        if mean and not mean.mean >= least:
            what = " of the execution" if executed else ""
            parts.append(f"the mean cosine{what} {mean.mean:.7f} is below {least}")
    target = thresholds.get("target_cosine", 0.0)
    held_out = [c.figures.cosine for c in results.cases if c.script == HELD_OUT and c.check == "alone"]
    if held_out and not (held := float(np.mean(held_out))) >= target:
        parts.append(
            f"the mean cosine {held:.7f} of {len(held_out)} texts that it was not calibrated on is below "
            f"{target}, which it was made for"
        )
    if results.weights and results.weights.failures:
        wrong = results.weights.failures
        parts.append(f"{len(wrong)} stored tensors are not the checkpoint's: {'; '.join(wrong[:3])}")
    parts += _changes(results.invariance, thresholds["batch_error"])
    if failed := [c for c in results.cases if c.failures]:
        worst = min(failed, key=lambda c: (not math.isnan(c.figures.cosine), c.figures.cosine))
        parts.append(
            f"{len(failed)} of {len(results.cases)} checks fell short, worst {worst.probe!r} ({worst.check}, "
            f"{worst.tokens} tokens): {'; '.join(worst.failures)}{_buckets_of(failed, buckets)}"
        )
    if missed := [g for g in results.golden if not g.passed]:
        parts.append(
            f"{len(missed)} of {len(results.golden)} golden figures missed, first {missed[0].id!r}: "
            f"{missed[0].found:.5f} instead of {missed[0].printed:.5f}"
        )
    if not results.cases:
        parts.append("nothing was compared")
    return "; ".join(parts) or None


def _buckets_of(failed: list[Case], buckets: tuple[int, ...]) -> str:
    """The lengths of a LiteRT file that fail, if others are right."""
    longer = {IN_BUCKET.format(b): b for b in buckets}
    wrong = {longer[c.check] for c in failed if c.check in longer}
    for case in (c for c in failed if buckets and c.check in ("alone", EXECUTED)):
        wrong.add(next((b for b in buckets if case.tokens <= b), buckets[-1]))
    if not wrong or len(wrong) == len(buckets):
        return ""
    return f"; all of those alone in bucket {', '.join(map(str, sorted(wrong)))}"


def _changes(invariance: Invariance | None, most: float) -> list[str]:
    """The circumstances that change vectors although they should not, in words."""
    if invariance is None:
        return []
    measured = {
        "batch": invariance.batch,
        "run": invariance.runs,
        "number of threads": invariance.threads,
        "bucket": invariance.buckets,
    }
    return [
        f"vectors change with the {what}, by up to {value:.1e}"
        for what, value in measured.items()
        if value is not None and not value <= most
    ]
