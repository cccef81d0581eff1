"""A report as lines of text for people."""

from embedding_validate.parity.results import GraphReport, Group, Report

_MOST_FAILURES = 10


def lines(report: Report) -> list[str]:
    """The verdict on each graph, a table by kind of check, and what fell short."""
    lines = [f"note: {note}" for note in report.notes]
    for key, graph in report.graphs.items():
        lines += _graph(key, graph)
    return lines


def _graph(key: str, graph: GraphReport) -> list[str]:
    verdict = "PASSED" if graph.status == "passed" else "FAILED"
    lines = [f"{key}: {verdict}, {graph.texts} texts, {graph.checks} checks in {graph.seconds:.0f} s"]
    if graph.reason:
        lines.append(f"  {graph.reason}")
    lines.append(
        f"  {'':24} {'checks':>6} {'failed':>6} {'cosine min':>12} {'mean':>12} {'max abs error':>14}"
    )
    lines += _rows(graph)
    bounds = graph.thresholds
    error = f"{bounds['max_abs_error']:14.1e}" if "max_abs_error" in bounds else f"{'-':>14}"
    cosines = f"{bounds['cosine_min']:12.7f} {bounds['cosine_mean']:12.7f}"
    lines.append(f"  {f'required of {graph.floors}':26} {'':4} {'':6} {cosines} {error}")
    if r := graph.ranking:
        lines.append(
            f"  search: {r.queries} queries over {r.documents} documents, top-{r.top_k} overlap "
            f"{r.top_k_overlap:.4f} ± {r.top_k_overlap_ci95:.4f}, Spearman {r.spearman:.6f} ± "
            f"{r.spearman_ci95:.6f}"
        )
    if s := graph.scores:
        lines.append(f"  scores: of {s.texts} texts with each other, largest shift {s.largest:.1e}")
    if differences := _differences(graph):
        lines.append(f"  largest difference {', '.join(differences)}")
    if w := graph.weights:
        lines.append(
            f"  stored weights: {w.compared - len(w.failures)} of {w.compared} tensors are the checkpoint's"
        )
    if graph.golden:
        passed = sum(g.passed for g in graph.golden)
        lines.append(f"  golden figures: {passed} of {len(graph.golden)} within tolerance")
    return lines + _failures(graph)


def _differences(graph: GraphReport) -> list[str]:
    i = graph.invariance
    measured = (
        {
            "alone to batched": i.batch,
            "between runs": i.runs,
            "between one thread and all": i.threads,
            "between buckets": i.buckets,
        }
        if i
        else {}
    )
    return [f"{what} {value:.1e}" for what, value in measured.items() if value is not None]


def _rows(graph: GraphReport) -> list[str]:
    rows = {f"alone, {name} tokens": g for name, g in graph.groups["length"].items()}
    rows |= {name: g for name, g in graph.groups["arrangement"].items() if name != "alone"}
    return [_row(name, g) for name, g in rows.items()]


def _row(name: str, group: Group) -> str:
    figures = f"{group.cosine.minimum:12.7f} {group.cosine.mean:12.7f} {group.max_abs_error.maximum:14.1e}"
    return f"  {name:24} {group.checks:6} {group.failed:6} {figures}"


def _failures(graph: GraphReport) -> list[str]:
    lines = [f"  diagnosis: {f.name} ({f.evidence})" for f in graph.findings]
    lines += [f"  {m}" for m in graph.mismatches]
    failed = [c for c in graph.cases if c.failures]
    for c in failed[:_MOST_FAILURES]:
        lines.append(f"  {c.probe!r}, {c.check}, {c.tokens} tokens: {'; '.join(c.failures)}")
    missed = [g for g in graph.golden if not g.passed]
    for g in missed[:_MOST_FAILURES]:
        lines.append(f"  golden {g.id!r}: {g.found:.5f} instead of {g.printed:.5f} (+- {g.tolerance})")
    more = len(failed) + len(missed) - min(len(failed), _MOST_FAILURES) - min(len(missed), _MOST_FAILURES)
    return [*lines, *([f"  and {more} more; all of them are in parity.json"] if more else [])]
