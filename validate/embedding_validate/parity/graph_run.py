"""Runs probes on one graph and compares each vector with the reference's, call by call.

`verdict` judges the graph as a whole.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.bundle import BundleGraph, Graph
from embedding_runtime.errors import EmbeddingError
from embedding_validate.measures import metrics
from embedding_validate.measures.metrics import Figures
from embedding_validate.measures.thresholds import Threshold, execution_threshold, states_threshold, threshold
from embedding_validate.parity.results import ERROR, EXECUTED, IN_BUCKET, TOKEN_STATES, Case, Invariance
from embedding_validate.probes.probes import Probe
from embedding_validate.reference.answers import Answers
from embedding_validate.runners.calls import Call, Result, Runner, open_graph, run, sliced

if TYPE_CHECKING:
    from embedding_validate.parity.execution import Executed

Floats = NDArray[np.float32]
# So many tokens are run in every bucket, beside half a bucket full.
_FEW_TOKENS = 3


def calls(answers: Answers, dims: Sequence[int]) -> list[Call]:
    """All calls for a graph."""
    return [*alone(answers), *batches(answers), *at_dims(answers, dims), *chunked(answers)]


def alone(answers: Answers) -> list[Call]:
    """Each text in a call of its own."""
    return [Call("alone", (p,)) for p in answers.probes.probes if p.chunked_at is None]


def chunked(answers: Answers) -> list[Call]:
    """Texts that overflow, each in a call of its own."""
    return [Call("chunked", (p,)) for p in answers.probes.probes if p.chunked_at is not None]


def batches(answers: Answers) -> list[Call]:
    """Texts of mixed lengths together."""
    groups = enumerate(answers.probes.batches, 1)
    return [Call(f"batch {n}", tuple(answers.probes[i] for i in ids)) for n, ids in groups]


def at_dims(answers: Answers, dims: Sequence[int]) -> list[Call]:
    """Some texts at every dim, normalised and not."""
    sample = tuple(p for p in answers.probes.probes if p.id in answers.probes.dims)
    return [
        Call(f"dim {dim}{'' if normalize else ', not normalised'}", sample, dim, normalize)
        for dim in (dims if sample else ())
        for normalize in (True, False)
    ]


@dataclass(frozen=True)
class GraphRun:
    """One open graph and the expected answers; keeps the graph's vectors of single texts."""

    run: Runner
    graph: Graph
    answers: Answers
    vectors: dict[str, Floats] = field(default_factory=dict)
    batch_differences: list[float] = field(default_factory=list)
    bucket_differences: list[float] = field(default_factory=list)
    other_ids: set[str] = field(default_factory=set)

    @property
    def _loss(self) -> Threshold:
        return threshold(self.graph.precision, self.answers.source.random_weights)

    def all_cases(self, calls: Sequence[Call], progress: Callable[[int, int], None]) -> list[Case]:
        """The cases of every call in turn; `progress` gets (done, total) before each."""
        cases: list[Case] = []
        for done, call in enumerate(calls):
            progress(done, len(calls))
            cases += self.cases(call)
        return cases

    def cases(self, call: Call) -> list[Case]:
        """Run one call and compare its vectors; for a single text also token ids and hidden states."""
        try:
            results = self.run(call)
        except EmbeddingError as e:
            return [self._refused(p, call, e) for p in call.probes]
        both = list(zip(call.probes, results, strict=True))
        return [*(self._case(p, call, r) for p, r in both), *(c for p, r in both for c in self._states(p, r))]

    def executed(self, expected: "Mapping[str, Executed]") -> list[Case]:
        """Compare vectors of single texts whose ids are right with those of the graph's own weights."""
        limits = execution_threshold(self.graph.format, self.graph.precision)
        cases = []
        for name, right in expected.items():
            if name in self.vectors and name not in self.other_ids:
                figures = Figures.of(right.vector, self.vectors[name])
                failures = limits.failures(metrics.norm(right.vector), figures)
                if limits.update_error is not None and not right.update_error <= limits.update_error:
                    failures.append(f"{right.residual} adds something else (error {right.update_error:.2g})")
                tokens, probe = len(self.answers.by_probe[name].ids), self.answers.probes[name]
                cases.append(
                    Case(name, probe.script, _prompt(probe), EXECUTED, tokens, None, figures, tuple(failures))
                )
        return cases

    def in_buckets(self, path: Path) -> list[Case]:
        """Run a text of a few tokens, and one of half the bucket's length, in each LiteRT bucket that is not
        their smallest.

        `path` is the graph's file. The engine's plain interpreter runs it; the vectors are compared with the
        reference's, and with the same text's vector from the smallest bucket that holds it.
        """
        if self.graph.format != "litert":
            return []
        from embedding_validate.runners.litert_file import open_file

        file = open_file(path)  # once: opening packs the weights of all its signatures, 3 GB in fp32
        cases: list[Case] = []
        smaller = 0
        for size in self.graph.buckets:
            longest = [self._longest(most) for most in (_FEW_TOKENS, size // 2) if most <= smaller]
            if probes := list(dict.fromkeys(p for p in longest if p)):
                cases += [self._in_bucket(p, size, file.vector(self._ids(p), size)) for p in probes]
            smaller = size
        return cases

    def _in_bucket(self, probe: Probe, size: int, vector: Floats) -> Case:
        expected, limits = self.answers.by_probe[probe.id].vector, self._loss
        figures = Figures.of(expected, vector)
        failures = limits.failures(metrics.norm(expected), figures)
        difference = _difference(self.vectors[probe.id], vector)
        self.bucket_differences.append(difference)
        if not difference <= limits.batch_error:
            failures.append(f"differs by {difference:.1e} from the same text in its smallest bucket")
        check, tokens = IN_BUCKET.format(size), len(self._ids(probe))
        return Case(probe.id, probe.script, _prompt(probe), check, tokens, None, figures, tuple(failures))

    def _longest(self, most: int) -> Probe | None:
        """The longest text of at most `most` tokens that gave a vector for the right ids."""
        ran = [p for p in self.answers.probes.probes if p.id in self.vectors and p.id not in self.other_ids]
        return max(
            (p for p in ran if len(self._ids(p)) <= most), key=lambda p: len(self._ids(p)), default=None
        )

    def _ids(self, probe: Probe) -> tuple[int, ...]:
        return self.answers.by_probe[probe.id].ids

    def _case(self, probe: Probe, call: Call, result: Result) -> Case:
        answer = self.answers.by_probe[probe.id]
        expected, vector = sliced(answer.vector, call.dim, call.normalize is True), result.vector
        figures = Figures.of(expected, vector)
        if call.name == "alone":
            self.vectors[probe.id] = vector
        elif call.dim is None and probe.id in self.vectors:
            self.batch_differences.append(_difference(self.vectors[probe.id], vector))
        failures = self._loss.failures(metrics.norm(expected), figures)
        equal = None if result.ids is None else result.ids == answer.ids
        if result.ids is not None and not equal:
            self.other_ids.add(probe.id)
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

    def _states(self, probe: Probe, result: Result) -> Iterator[Case]:
        """The last hidden states of all tokens as one vector, both divided by the reference's norm."""
        answer = self.answers.by_probe[probe.id]
        if answer.states is None or result.states is None or probe.id in self.other_ids:
            return
        scale = metrics.norm(answer.states.ravel()) or 1.0
        figures = Figures.of((answer.states / scale).ravel(), (result.states / scale).ravel())
        failures = states_threshold(self.graph.precision).failures(1.0, figures)
        tokens = len(answer.ids)
        yield Case(
            probe.id, probe.script, _prompt(probe), TOKEN_STATES, tokens, None, figures, tuple(failures)
        )

    def invariance(self, graph: BundleGraph) -> Invariance | None:
        """Run the first three probes for dims a second time, and on one thread."""
        probes = self.answers.probes
        sample = [probes[i] for i in probes.dims[:3] if i in self.vectors]
        if not sample:
            return None
        with open_graph(graph, threads=1) as single:
            runs, threads = (
                max(_difference(self.vectors[p.id], runner(Call("alone", (p,)))[0].vector) for p in sample)
                for runner in (self.run, partial(run, single))
            )
        return Invariance(self.batch_difference, runs, threads, max(self.bucket_differences, default=None))

    @property
    def batch_difference(self) -> float | None:
        """The largest difference of a vector in a batch to the same text's alone."""
        return max(self.batch_differences, default=None)

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
            (f"{ERROR}{error}",),
        )


def _difference(a: Floats, b: Floats) -> float:
    """Largest absolute difference, for vectors of norm 1."""
    return metrics.max_abs_error(a, b) / max(1.0, metrics.norm(a))


def _prompt(probe: Probe) -> str:
    name = probe.prompt_name or {"encode": ""}.get(probe.verb, probe.verb)
    return f"{name} with title" if probe.title is not None else name


def _ids_failure(expected: Sequence[int], actual: Sequence[int]) -> str:
    at = metrics.first_difference(expected, actual) or 0
    return (
        f"token ids differ from position {at} on: {list(actual[at : at + 4])} instead of "
        f"{list(expected[at : at + 4])} ({len(actual)} tokens instead of {len(expected)})"
    )
