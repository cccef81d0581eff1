"""Runs probes through the public `Embedder` and compares with the reference's answers, graph by graph.

Knows nothing of how the reference computed them: `gate` alone loads it.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.bundle import Graph, Manifest, Parity, load_manifest
from embedding_runtime.errors import EmbeddingError
from embedding_validate import golden, metrics, probes, ranking, texts
from embedding_validate.answers import Answers
from embedding_validate.calls import Call, Result, Runner, of_embedder, opened, run, sliced
from embedding_validate.machine import machine, versions
from embedding_validate.metrics import Figures
from embedding_validate.probes import Probe
from embedding_validate.ranking import Ranking
from embedding_validate.results import EXECUTED, Case, Found, GraphReport, Invariance, Report, graph_report
from embedding_validate.thresholds import EXECUTION, bounds, threshold

if TYPE_CHECKING:
    from embedding_export.checkpoint import Checkpoint
    from embedding_validate.execution import Executed, Execution

Floats = NDArray[np.float32]
Progress = Callable[[str, int, int], None]
"""Gets what is running, and (done, total) of its checks."""


def _silent(_what: str, _done: int, _total: int) -> None: ...


def check(
    bundle: Path,
    answers: Answers,
    progress: Progress = _silent,
    *,
    execution: "Execution | None" = None,
    tutorial: bool = False,
) -> Report:
    """Compare every graph of a bundle with the reference's answers.

    `execution` also asks what each graph should give by its own weights (it needs the checkpoint and torch);
    `tutorial` adds the golden figures.

    Raises:
        BundleError: the bundle is missing or damaged.  EngineError: a graph's engine is missing.
        InputError: a graph's precision has no thresholds.
    """
    manifest = load_manifest(bundle)
    answers = answers.for_bundle(bundle, manifest)
    return Report(
        probes=answers.probes.name,
        bundle={"space_id": manifest.space_id, "weights_sha256": manifest.source.weights_sha256},
        reference=answers.source,
        versions={**versions(), **answers.versions},
        machine=machine(),
        graphs={
            g.key: check_graph(bundle, g, answers, progress, execution=execution, tutorial=tutorial)
            for g in manifest.graphs
        },
        notes=_notes(manifest, answers),
    )


def check_graph(
    bundle: Path,
    graph: Graph,
    answers: Answers,
    progress: Progress = _silent,
    *,
    execution: "Execution | None" = None,
    tutorial: bool = False,
) -> GraphReport:
    """Compare one graph; arguments and errors as those of `check`, `answers` in the graph's own ids."""
    limits, started = bounds(graph.precision), time.monotonic()
    with opened(bundle, graph) as embedder:
        graph_run = _Run(partial(run, embedder), graph.precision, answers)
        calls = [
            *_alone(answers),
            *_batches(answers),
            *_dims(answers, embedder.manifest.dims),
            *_chunked(answers),
        ]
        cases = graph_run.all_cases(calls, partial(progress, graph.key))
        if execution is not None:
            cases += graph_run.executed(execution.expected(bundle, graph, answers))
        printed = golden.check(of_embedder(embedder), graph.precision) if tutorial else ()
        mismatches = _mismatches(embedder.manifest, answers)
        found = Found(
            tuple(cases),
            mismatches,
            printed,
            graph_run.ranking(),
            graph_run.invariance(bundle, graph),
            {p.id: p.text for p in answers.probes.probes},
        )
    return graph_report(graph, limits, found, time.monotonic() - started)


def check_runner(runner: Runner, graph: Graph, answers: Answers, progress: Progress = _silent) -> GraphReport:
    """Compare anything that runs calls, alone and in batches; `graph` names it and its precision."""
    started = time.monotonic()
    graph_run = _Run(runner, graph.precision, answers)
    cases = graph_run.all_cases([*_alone(answers), *_batches(answers)], partial(progress, graph.key))
    shown = {p.id: p.text for p in answers.probes.probes}
    found = Found(tuple(cases), (), (), graph_run.ranking(), None, shown)
    return graph_report(graph, bounds(graph.precision), found, time.monotonic() - started)


def gate(checkpoint: "Checkpoint", progress: Progress = _silent) -> Callable[[Path], Mapping[str, Parity]]:
    """The exporter's gate: the short set of probes, the reference loaded at its first call and asked once.

    The gate never raises for a bundle that cannot be run: its graphs have failed. Where a graph is wrong, the
    reference is loaded again to say what is wrong.

    Raises (when called):
        ReferenceLoadError: the reference cannot be loaded, or is not the model that the checkpoint describes.
    """

    from embedding_validate.reference import Reference  # only the gate needs it, a board has no use for it

    @cache
    def answers() -> Answers:
        reference = Reference.load(checkpoint)
        chosen = probes.short(texts.packaged(), reference.prompts, reference.limits, reference.count)
        return reference.answer(chosen, lambda done, total: progress("reference", done, total))

    def judge(bundle: Path) -> dict[str, Parity]:
        manifest = load_manifest(bundle)
        expected = answers().for_bundle(bundle, manifest)
        used = {**versions(), **expected.versions}
        return {g.key: judge_graph(bundle, g, expected, used) for g in manifest.graphs}

    @cache
    def execution() -> "Execution":
        from embedding_validate.execution import Execution

        return Execution(checkpoint, answers())

    def judge_graph(bundle: Path, graph: Graph, expected: Answers, used: dict[str, str]) -> Parity:
        try:
            report = check_graph(bundle, graph, expected, progress, execution=execution())
            if report.status == "failed":
                from embedding_validate.diagnosis import diagnose_graph  # torch: not for a plain comparison

                report = diagnose_graph(bundle, graph, report, Reference.load(checkpoint), expected)
            return report.as_parity(used)
        except EmbeddingError as e:
            return Parity("failed", f"the runtime refuses it: {e}", versions=used)

    return judge


def _alone(answers: Answers) -> list[Call]:
    return [Call("alone", (p,)) for p in answers.probes.probes if p.chunked_at is None]


def _chunked(answers: Answers) -> list[Call]:
    return [Call("chunked", (p,)) for p in answers.probes.probes if p.chunked_at is not None]


def _batches(answers: Answers) -> list[Call]:
    by_id = {p.id: p for p in answers.probes.probes}
    groups = enumerate(answers.probes.batches, 1)
    return [Call(f"batch {n}", tuple(by_id[i] for i in ids)) for n, ids in groups]


def _dims(answers: Answers, dims: Sequence[int]) -> list[Call]:
    chosen = tuple(p for p in answers.probes.probes if p.id in answers.probes.dims)
    return [
        Call(f"dim {dim}{'' if normalize else ', not normalised'}", chosen, dim, normalize)
        for dim in (dims if chosen else ())
        for normalize in (True, False)
    ]


@dataclass(frozen=True)
class _Run:
    """One graph, opened, and what it should give; keeps the vectors it gave for texts alone."""

    run: Runner
    precision: str
    answers: Answers
    vectors: dict[str, Floats] = field(default_factory=dict)
    batch_differences: list[float] = field(default_factory=list)

    def all_cases(self, calls: Sequence[Call], progress: Callable[[int, int], None]) -> list[Case]:
        """The cases of every call in turn; `progress` gets (done, total) before each."""
        cases: list[Case] = []
        for done, call in enumerate(calls):
            progress(done, len(calls))
            cases += self.cases(call)
        return cases

    def cases(self, call: Call) -> list[Case]:
        """Run one call and compare each of its vectors; alone, also the token ids that were run."""
        try:
            results = self.run(call)
        except EmbeddingError as e:
            return [self._refused(p, call, e) for p in call.probes]
        return [self._case(p, call, r) for p, r in zip(call.probes, results, strict=True)]

    def executed(self, expected: "Mapping[str, Executed]") -> list[Case]:
        """The vectors given for texts alone against those by the graph's own weights."""
        limits = EXECUTION[self.precision] if expected else threshold(self.precision)
        by_id = {p.id: p for p in self.answers.probes.probes}
        cases = []
        for name, right in expected.items():
            if name in self.vectors:
                figures = Figures.of(right.vector, self.vectors[name])
                failures = limits.failures(metrics.norm(right.vector), figures)
                if limits.update_error is not None and not right.update_error <= limits.update_error:
                    failures.append(f"{right.half} adds something else (error {right.update_error:.2g})")
                tokens, probe = len(self.answers.by_probe[name].ids), by_id[name]
                cases.append(
                    Case(name, probe.script, _prompt(probe), EXECUTED, tokens, None, figures, tuple(failures))
                )
        return cases

    def _case(self, probe: Probe, call: Call, result: Result) -> Case:
        answer = self.answers.by_probe[probe.id]
        expected, vector = sliced(answer.vector, call.dim, call.normalize is True), result.vector
        figures = Figures.of(expected, vector)
        if call.name == "alone":
            self.vectors[probe.id] = vector
        elif call.dim is None and probe.id in self.vectors:
            self.batch_differences.append(_difference(self.vectors[probe.id], vector))
        failures = threshold(self.precision).failures(metrics.norm(expected), figures)
        equal = None if result.ids is None else result.ids == answer.ids
        if result.ids is not None and not equal:
            failures.insert(0, _ids_failure(answer.ids, result.ids))
        return Case(
            probe.id,
            probe.script,
            _prompt(probe),
            call.name,
            len(answer.ids),
            equal,
            figures,
            tuple(failures),
        )

    def ranking(self) -> Ranking | None:
        """Neighbours among the texts that ran without a prompt and gave a vector."""
        chosen = [p.id for p in self.answers.probes.probes if not _prompt(p) and not p.allow_special]
        kept = [i for i in chosen if i in self.vectors and metrics.finite(self.vectors[i])]
        expected = [self.answers.by_probe[i].vector for i in kept]
        found = [self.vectors[i] for i in kept]
        if not kept or expected[0].shape != found[0].shape:
            return None
        return ranking.compare(np.stack(expected), np.stack(found))

    def invariance(self, bundle: Path, graph: Graph) -> Invariance | None:
        """The first three probes for dims once more, and on one thread."""
        by_id = {p.id: p for p in self.answers.probes.probes}
        chosen = [by_id[i] for i in self.answers.probes.dims[:3] if i in self.vectors]
        if not chosen:
            return None
        with opened(bundle, graph, threads=1) as single:
            runs, threads = (
                max(_difference(self.vectors[p.id], runner(Call("alone", (p,)))[0].vector) for p in chosen)
                for runner in (self.run, partial(run, single))
            )
        return Invariance(max(self.batch_differences, default=0.0), runs, threads)

    def _refused(self, probe: Probe, call: Call, error: EmbeddingError) -> Case:
        tokens = len(self.answers.by_probe[probe.id].ids)
        return Case(
            probe.id,
            probe.script,
            _prompt(probe),
            call.name,
            tokens,
            None,
            Figures.none(),
            (f"error: {error}",),
        )


def _difference(a: Floats, b: Floats) -> float:
    """Largest absolute difference, for vectors of norm 1."""
    return metrics.max_abs_error(a, b) / max(1.0, metrics.norm(a))


def _prompt(probe: Probe) -> str:
    name = probe.prompt_name or {"encode": ""}.get(probe.verb, probe.verb)
    return f"{name} with title" if probe.title is not None else name


def _ids_failure(expected: Sequence[int], found: Sequence[int]) -> str:
    at = metrics.first_difference(expected, found) or 0
    return (
        f"token ids differ from position {at} on: {list(found[at : at + 4])} instead of "
        f"{list(expected[at : at + 4])} ({len(found)} tokens instead of {len(expected)})"
    )


def _mismatches(manifest: Manifest, answers: Answers) -> tuple[str, ...]:
    """Facts that a bundle must share with its checkpoint, other than vectors."""
    pairs: list[tuple[str, str | None, str | None]] = [
        (f"prompt {name!r}", manifest.prompts.get(name), text) for name, text in answers.prompts.items()
    ]
    pairs += [
        ("default prompt", manifest.default_prompt_name, answers.default_prompt_name),
        ("similarity function", manifest.similarity_fn_name, answers.similarity_fn_name),
    ]
    found = [f"{what} is {have!r} instead of {want!r}" for what, have, want in pairs if have != want]
    if manifest.max_seq_length != answers.max_seq_length:
        found.append(f"max_seq_length is {manifest.max_seq_length} instead of {answers.max_seq_length}")
    return tuple(found)


def _notes(manifest: Manifest, answers: Answers) -> tuple[str, ...]:
    if manifest.source.weights_sha256 == answers.source.weights_sha256:
        return ()
    return (
        f"The bundle was exported from other weights ({manifest.source.name}, "
        f"{manifest.source.weights_sha256[:12]}) than this reference's ({answers.source.name}, "
        f"{answers.source.weights_sha256[:12]}).",
    )
