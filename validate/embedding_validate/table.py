"""A report as lines for people. Computes no figure that the report does not hold, prints nothing."""

from embedding_validate.metrics import summarize
from embedding_validate.results import Case, GraphReport, Report

# Upper ends of the length classes in tokens.
_CLASSES = (64, 512, 2048)
_MOST_FAILURES = 10


def lines(report: Report) -> list[str]:
    """The verdict on each graph, a table by kind of check, and what fell short."""
    found = [f"note: {note}" for note in report.notes]
    for key, graph in report.graphs.items():
        found += _graph(key, graph)
    return found


def _graph(key: str, graph: GraphReport) -> list[str]:
    verdict = "PASSED" if graph.status == "passed" else "FAILED"
    found = [f"{key}: {verdict}, {graph.texts} texts, {graph.checks} checks in {graph.seconds:.0f} s"]
    found.append(
        f"  {'':24} {'checks':>6} {'failed':>6} {'cosine min':>12} {'mean':>12} {'max abs error':>14}"
    )
    groups: dict[str, list[Case]] = {}
    for case in graph.cases:
        groups.setdefault(_group(case), []).append(case)
    found += [_row(name, cases) for name, cases in groups.items()]
    bounds = graph.thresholds
    error = f"{bounds['max_abs_error']:14.1e}" if "max_abs_error" in bounds else f"{'-':>14}"
    cosines = f"{bounds['cosine_min']:12.7f} {bounds['cosine_mean']:12.7f}"
    found.append(f"  {'required':24} {'':6} {'':6} {cosines} {error}")
    if graph.golden:
        passed = sum(g.passed for g in graph.golden)
        found.append(f"  golden figures: {passed} of {len(graph.golden)} within tolerance")
    return found + _failures(graph)


def _group(case: Case) -> str:
    kind = case.check.split(",")[0]
    if kind != "alone":
        return "batched" if kind.startswith("batch") else kind
    longest = next((c for c in _CLASSES if case.tokens <= c), None)
    return f"alone, <= {longest} tokens" if longest else f"alone, > {_CLASSES[-1]} tokens"


def _row(name: str, cases: list[Case]) -> str:
    cosine = summarize([c.figures.cosine for c in cases])
    error = summarize([c.figures.max_abs_error for c in cases])
    assert cosine and error
    failed = sum(bool(c.failures) for c in cases)
    figures = f"{cosine.minimum:12.7f} {cosine.mean:12.7f} {error.maximum:14.1e}"
    return f"  {name:24} {len(cases):6} {failed:6} {figures}"


def _failures(graph: GraphReport) -> list[str]:
    found = [f"  diagnosis: {f.name} ({f.evidence})" for f in graph.findings]
    found += [f"  {m}" for m in graph.mismatches]
    failed = [c for c in graph.cases if c.failures]
    for c in failed[:_MOST_FAILURES]:
        found.append(f"  {c.probe!r}, {c.check}, {c.tokens} tokens: {'; '.join(c.failures)}")
    missed = [g for g in graph.golden if not g.passed]
    for g in missed[:_MOST_FAILURES]:
        found.append(f"  golden {g.id!r}: {g.found:.5f} instead of {g.printed:.5f} (+- {g.tolerance})")
    more = len(failed) + len(missed) - min(len(failed), _MOST_FAILURES) - min(len(missed), _MOST_FAILURES)
    return [*found, *([f"  and {more} more; all of them are in parity.json"] if more else [])]
