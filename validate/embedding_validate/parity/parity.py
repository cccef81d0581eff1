"""Runs probes through the public `Embedder` and compares with the reference's answers, graph by graph.

The answers are passed in; the reference itself is never loaded here.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from embedding_runtime.bundle import BundleGraph, Graph, Manifest, bundle_graphs, load_manifest
from embedding_validate.machine import machine, versions
from embedding_validate.measures.thresholds import bounds, floors
from embedding_validate.parity import graph_run, searches
from embedding_validate.parity.graph_run import GraphRun
from embedding_validate.parity.results import GraphReport, Invariance, Report, WeightReport
from embedding_validate.parity.verdict import Results, graph_report
from embedding_validate.reference.answers import Answers
from embedding_validate.runners.calls import Runner, of_embedder, open_graph, run
from embedding_validate.tutorial import golden

if TYPE_CHECKING:
    from embedding_validate.parity.execution import Execution

Progress = Callable[[str, int, int], None]
"""Gets what is running, and (done, total) of its checks."""
WeightAudit = Callable[[BundleGraph], WeightReport]
"""Compares what a graph stores with the checkpoint."""


def silent(_what: str, _done: int, _total: int) -> None:
    """A progress callback that does nothing."""


def check(
    bundle: Path,
    answers: Answers,
    progress: Progress = silent,
    *,
    manifest: Manifest | None = None,
    execution: "Execution | None" = None,
    weights: WeightAudit | None = None,
    tutorial: bool = False,
) -> Report:
    """Compare every graph of a bundle with the reference's answers.

    `manifest` is the bundle's if it has been read already; None reads it. `execution` also compares each
    graph with what its own weights should give (it needs the checkpoint and torch); `weights` checks whether
    those weights are the checkpoint's; `tutorial` adds the golden figures.

    Raises:
        BundleError: the bundle is missing or damaged.  EngineError: a graph's engine is missing.
        InputError: a graph's precision has no thresholds.
    """
    manifest = load_manifest(bundle) if manifest is None else manifest
    answers = answers.for_bundle(bundle, manifest)
    return Report(
        probes=answers.probes.name,
        bundle={"space_id": manifest.space_id, "weights_sha256": manifest.source.weights_sha256},
        reference=answers.source,
        versions={**versions(), **answers.versions},
        machine=machine(),
        graphs={
            g.key: check_graph(g, answers, progress, execution=execution, weights=weights, tutorial=tutorial)
            for g in bundle_graphs(bundle, manifest)
        },
        notes=(*_notes(manifest, answers), *_left_out(manifest, answers)),
    )


def check_graph(
    graph: BundleGraph,
    answers: Answers,
    progress: Progress = silent,
    *,
    execution: "Execution | None" = None,
    weights: WeightAudit | None = None,
    tutorial: bool = False,
) -> GraphReport:
    """Compare one graph; arguments and errors as those of `check`, `answers` in the graph's own ids."""
    started = time.monotonic()
    with open_graph(graph) as embedder:
        answers = answers.for_graph(graph.graph, graph.manifest.tokenizer.pad_id)
        compared = GraphRun(partial(run, embedder), graph.graph, answers)
        calls = graph_run.calls(answers, graph.manifest.dims)
        cases = compared.all_cases(calls, partial(progress, graph.key))
        cases += compared.in_buckets(graph.path)
        if execution is not None:
            cases += compared.executed(execution.expected(graph, answers))
        printed = golden.check(of_embedder(embedder), graph.graph.precision) if tutorial else ()
        mismatches = _mismatches(graph.manifest, answers)
        invariance = compared.invariance(graph)
    results = Results(
        tuple(cases),
        mismatches,
        printed,
        searches.ranking(answers, compared.vectors),
        searches.score_shift(answers, compared.vectors),
        invariance,
        weights(graph) if weights else None,  # the engine's memory has been given back
        {p.id: p.text for p in answers.probes.probes},
    )
    report = _judged(graph.graph, answers, results, time.monotonic() - started)
    return replace(report, bytes=sum(graph.sizes.values()), composition=graph.graph.composition)


def check_runner(runner: Runner, graph: Graph, answers: Answers, progress: Progress = silent) -> GraphReport:
    """Compare anything that runs calls, alone and in batches; `graph` names it and its precision."""
    started = time.monotonic()
    compared = GraphRun(runner, graph, answers)
    calls = [*graph_run.alone(answers), *graph_run.batches(answers)]
    cases = compared.all_cases(calls, partial(progress, graph.key))
    shown = {p.id: p.text for p in answers.probes.probes}
    invariance = Invariance(compared.batch_difference, None, None)
    searched = searches.ranking(answers, compared.vectors)
    shift = searches.score_shift(answers, compared.vectors)
    results = Results(tuple(cases), (), (), searched, shift, invariance, texts=shown)
    return _judged(graph, answers, results, time.monotonic() - started)


def _judged(graph: Graph, answers: Answers, results: Results, seconds: float) -> GraphReport:
    """The verdict, by the bounds for the reference's checkpoint."""
    random = answers.source.random_weights
    target = {"target_cosine": graph.composition.target_cosine} if graph.composition else {}
    limits = {**bounds(graph.precision, graph.format, random), **target}
    report = graph_report(graph, limits, results, seconds)
    return replace(report, floors=floors(random))


def _mismatches(manifest: Manifest, answers: Answers) -> tuple[str, ...]:
    """Facts that a bundle must share with its checkpoint, other than vectors."""
    pairs: list[tuple[str, str | None, str | None]] = [
        (f"prompt {name!r}", manifest.prompts.get(name), text) for name, text in answers.prompts.items()
    ]
    pairs += [
        ("default prompt", manifest.default_prompt_name, answers.default_prompt_name),
        ("similarity function", manifest.similarity_fn_name, answers.similarity_fn_name),
    ]
    mismatches = [f"{what} is {have!r} instead of {want!r}" for what, have, want in pairs if have != want]
    if manifest.max_seq_length != answers.max_seq_length:
        mismatches.append(f"max_seq_length is {manifest.max_seq_length} instead of {answers.max_seq_length}")
    return tuple(mismatches)


def _notes(manifest: Manifest, answers: Answers) -> tuple[str, ...]:
    if manifest.source.weights_sha256 == answers.source.weights_sha256:
        return ()
    return (
        f"The bundle was exported from other weights ({manifest.source.name}, "
        f"{manifest.source.weights_sha256[:12]}) than this reference's ({answers.source.name}, "
        f"{answers.source.weights_sha256[:12]}).",
    )


def _left_out(manifest: Manifest, answers: Answers) -> tuple[str, ...]:
    """Notes on graphs that skip probes because their manifest says that they do not support them."""
    keys_by_reason: dict[str, list[str]] = {}
    total = len(answers.probes.probes)
    for graph in manifest.graphs:
        supported = answers.for_graph(graph, manifest.tokenizer.pad_id).probes.probes
        if len(supported) < total:
            reason = (
                f"skipped {total - len(supported)} of {total} probes: texts of more than the "
                f"{max(graph.buckets)} tokens that are read, or with a literal padding token read as a "
                "control token, which is refused."
            )
            keys_by_reason.setdefault(reason, []).append(graph.key)
    return tuple(f"{', '.join(keys)}: {reason}" for reason, keys in keys_by_reason.items())
