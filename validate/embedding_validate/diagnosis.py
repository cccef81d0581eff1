"""What is wrong with a graph that failed, by name: the fault under which the reference gives its vectors.

Looks at failures that `parity` found; token faults are named from ids, the others from vectors, and what no
known fault explains is localised to the first layer that differs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from embedding_runtime.bundle import Graph, load_manifest
from embedding_validate import chunks, hypotheses, metrics, tokens
from embedding_validate.answers import Answers
from embedding_validate.calls import Call, Floats, Runner, opened, run
from embedding_validate.hypotheses import Interpreter
from embedding_validate.layers import first_deviation
from embedding_validate.metrics import Figures
from embedding_validate.probes import Probe
from embedding_validate.reference import Reference
from embedding_validate.results import Case, Finding, GraphReport, Report
from embedding_validate.thresholds import threshold
from embedding_validate.tokens import Mismatch

# Evidence is short where it can be: each hypothesis costs a forward pass over it.
_MOST_TOKENS = 1100
_MOST_MISMATCHES = 12
# Relative error of a residual above which a layer differs; rounding stays below 1e-4 to the last layer.
_LAYER_BOUND = 1e-3
# Of several faults that fit, those with less than this multiple of the least error cannot be told apart.
_TIE = 2.0


@dataclass(frozen=True)
class Evidence:
    """A sequence of ids, the vector the bundle gave for it, and the reference's."""

    ids: tuple[int, ...]
    found: Floats
    expected: Floats


def diagnose(bundle: Path, report: Report, reference: Reference, answers: Answers) -> Report:
    """The same report with findings for every graph that failed."""
    graphs = {
        g.key: diagnose_graph(bundle, g, report.graphs[g.key], reference, answers)
        for g in load_manifest(bundle).graphs
    }
    return replace(report, graphs=graphs)


def diagnose_graph(
    bundle: Path, graph: Graph, report: GraphReport, reference: Reference, answers: Answers
) -> GraphReport:
    """The same report; with findings if it failed. Holds the checkpoint's weights in memory as float32."""
    trimmed = load_manifest(bundle).tokenizer.kept_ids is not None  # its ids are not the reference's
    if report.status != "failed" or trimmed:
        return report
    with opened(bundle, graph) as embedder:
        subject = Subject(
            run=partial(run, embedder),
            precision=graph.precision,
            onnx=bundle / graph.file if graph.format == "onnx" else None,
            same_weights=embedder.manifest.source.weights_sha256 == answers.source.weights_sha256,
            buckets=graph.buckets,
        )
        asked = answers.for_graph(graph, embedder.manifest.tokenizer.pad_id)
        return diagnose_subject(subject, report, reference, asked)


def diagnose_subject(
    subject: "Subject", report: GraphReport, reference: Reference, answers: Answers
) -> GraphReport:
    """The same report with findings about whatever it was that failed."""
    case = _Diagnosis(subject, answers, reference, Interpreter.of(reference.checkpoint))
    return replace(report, findings=tuple(case.findings(report)))


@dataclass(frozen=True)
class Subject:
    """What failed: how to run it, its precision, its ONNX file if it is one, and whose weights it claims.

    `buckets` are the lengths it pads texts to, if it has fixed ones.
    """

    run: Runner
    precision: str
    onnx: Path | None
    same_weights: bool
    buckets: tuple[int, ...] = ()

    def length(self, tokens: int) -> int:
        """The length that a text of so many tokens is padded to; 0 where it is not."""
        return min((b for b in self.buckets if tokens <= b), default=0)


@dataclass(frozen=True)
class _Diagnosis:
    subject: Subject
    answers: Answers
    reference: Reference
    interpreter: Interpreter

    def findings(self, report: GraphReport) -> Iterable[Finding]:
        alone = [c for c in report.cases if c.check == "alone" and np.isfinite(c.figures.cosine)]
        if wrong_ids := [c for c in alone if c.ids_equal is False]:
            yield from self._tokens(wrong_ids)
        same_ids = [c for c in alone if c.ids_equal]
        if any(c.failures for c in same_ids):
            yield from self._graph(self._evidence(same_ids))
            return
        passed = {c.probe for c in alone if not c.failures}
        batches = {c.check for c in report.cases if c.check.startswith("batch") and _only_there(c, passed)}
        if batches:
            yield from self._padding(sorted(batches))
        if chunked := [c for c in report.cases if c.check == "chunked" and c.failures]:
            yield self._chunks(chunked)

    def _tokens(self, cases: Sequence[Case]) -> Iterable[Finding]:
        """Name what happened to the ids; to those of truncated texts only where no others are wrong."""
        by_id = {p.id: p for p in self.answers.probes.probes}
        whole = [c for c in cases if c.tokens <= _MOST_TOKENS]
        chosen = sorted(whole or cases, key=lambda c: c.tokens)[:_MOST_MISMATCHES]
        mismatches = []
        for case in chosen:
            probe = by_id[case.probe]
            found = self.subject.run(Call("alone", (probe,)))[0].ids or ()
            mismatches.append(Mismatch(probe, self.answers.by_probe[probe.id].ids, found))
        explained = tokens.explain(mismatches, self.reference)
        if not explained:
            most = 2 * len(cases) > len(self.answers.probes.probes)
            name = "other tokenizer" if most else "token ids differ, for no known reason"
            yield Finding(name, f"other ids in {len(cases)} probes", None, None)
            return
        worst = min(c.figures.cosine for c in chosen)
        for name, count in explained:
            yield Finding(name, f"explains the ids of {count} of {len(mismatches)} probes", worst, None)

    def _evidence(self, cases: Sequence[Case]) -> list[Evidence]:
        """Two short texts that fail, two that pass, two just past the window, the worst; shortest first."""
        ordered = sorted((c for c in cases if 2 < c.tokens <= _MOST_TOKENS), key=lambda c: c.tokens)
        failed = [c for c in ordered if c.failures]
        passed = [c for c in ordered if not c.failures]
        edge = (self.reference.limits.window or 0) + 2
        past = [c for c in ordered if edge <= c.tokens]
        worst = sorted(failed, key=lambda c: c.figures.cosine)[:1]
        chosen = {c.probe: c for c in [*failed[:2], *passed[:2], *past[:2], *worst]}
        by_id = {p.id: p for p in self.answers.probes.probes}
        found = []
        for case in sorted(chosen.values(), key=lambda c: c.tokens):
            answer = self.answers.by_probe[case.probe]
            vector = self.subject.run(Call("alone", (by_id[case.probe],)))[0].vector
            found.append(Evidence(answer.ids, vector, answer.vector))
        return found

    def _graph(self, evidence: Sequence[Evidence]) -> Iterable[Finding]:
        sound = self.interpreter.sound
        if any(self._misses(e.expected, self._vector(sound, e)) for e in evidence):
            yield Finding(
                "not diagnosed", "the encoder in torch does not give the reference's vectors", None, None
            )
            return
        faults = dict(hypotheses.alone(sound.config, sound.dense))
        if self.subject.buckets:
            faults |= hypotheses.padded()
        models = {name: partial(self._vector, f(sound)) for name, f in faults.items()}
        fits = self._fits(models, evidence)
        yield fits or self._localised(evidence)

    def _vector(self, model: hypotheses.Model, evidence: Evidence) -> Floats:
        length = self.subject.length(len(evidence.ids))
        vector: Floats = self.interpreter.vectors(model, [evidence.ids], length)[0]
        return vector

    def _fits(
        self, faults: Mapping[str, Callable[[Evidence], Floats]], evidence: Sequence[Evidence]
    ) -> Finding | None:
        """The fault under which all evidence passes the graph's own thresholds, or None."""
        fitting: dict[str, tuple[float, float]] = {}
        for name, vector_of in faults.items():
            errors, cosines = [], []
            for e in evidence:
                vector = vector_of(e)
                if self._misses(vector, e.found):
                    break
                errors.append(metrics.max_abs_error(vector, e.found))
                cosines.append(metrics.cosine(vector, e.found))
            else:
                fitting[name] = (max(errors), min(cosines))
        if not fitting:
            return None
        least = min(error for error, _ in fitting.values())
        names = [n for n, (error, _) in fitting.items() if error <= _TIE * least]
        to_fault = min(fitting[n][1] for n in names)
        return _finding(" or ".join(names), evidence, to_fault)

    def _misses(self, reference: Floats, found: Floats) -> bool:
        figures = Figures.of(reference, found)
        return bool(threshold(self.subject.precision).failures(metrics.norm(reference), figures))

    def _localised(self, evidence: Sequence[Evidence]) -> Finding:
        """The first layer that differs, two layers that are exchanged, or another checkpoint altogether."""
        if self.subject.precision != "fp32":
            name = "no known fault: quantization error beyond its class, or a damaged tensor"
            return _finding(name, evidence, None)
        e = next(e for e in evidence if self._misses(e.expected, e.found))
        expected = self.interpreter.layers(e.ids)
        deviation = (
            first_deviation(self.subject.onnx, e.ids, expected, _LAYER_BOUND)
            if self.subject.onnx is not None
            else None
        )
        if not self.subject.same_weights:
            return _finding("other checkpoint", evidence, None, "exported from other weights")
        if deviation is None:
            return _finding("no known fault", evidence, None, "no layer was found that differs")
        layers = range(len(self.interpreter.sound.config.layer_types))
        swaps = {
            f"layers {deviation.layer} and {j} exchanged": partial(self._swapped, deviation.layer, j)
            for j in layers
            if j != deviation.layer
        }
        half = "attention" if deviation.name.endswith("attention") else "feed-forward"
        return self._fits(swaps, evidence) or _finding(
            f"layer {deviation.layer} differs from its {half} block on",
            evidence,
            None,
            f"relative error {deviation.error:.1e} there, {deviation.error_before:.1e} before it",
        )

    def _swapped(self, first: int, second: int, evidence: Evidence) -> Floats:
        other = self.interpreter.exchanged(first, second)
        vector: Floats = other.vectors(other.sound, [evidence.ids])[0]
        return vector

    def _padding(self, batches: Sequence[str]) -> Iterable[Finding]:
        """Texts that pass alone fail in a batch: run the faulty models on the same padded batch."""
        by_id = {p.id: p for p in self.answers.probes.probes}
        number = int(batches[0].split()[1])
        probes = tuple(by_id[i] for i in self.answers.probes.batches[number - 1])
        results = self.subject.run(Call(batches[0], probes))
        answers = [self.answers.by_probe[p.id] for p in probes]
        evidence = [Evidence(a.ids, r.vector, a.vector) for a, r in zip(answers, results, strict=True)]
        batch = [e.ids for e in evidence]
        vectors = {
            name: self.interpreter.vectors(fault(self.interpreter.sound), batch)
            for name, fault in hypotheses.padded().items()
        }
        rows = {e.ids: i for i, e in enumerate(evidence)}
        fits = self._fits({n: partial(_row, v, rows) for n, v in vectors.items()}, evidence)
        yield fits or _finding("vectors change with the batch", evidence, None, "they are right alone")

    def _chunks(self, cases: Sequence[Case]) -> Finding:
        """Texts that pass whole fail in pieces: what known mistakes with chunks would give."""
        by_id = {p.id: p for p in self.answers.probes.probes}
        evidence, faulty = [], {}
        for case in cases:
            probe, answer = by_id[case.probe], self.answers.by_probe[case.probe]
            found = self.subject.run(Call("chunked", (probe,)))[0].vector
            evidence.append(Evidence(answer.ids, found, answer.vector))
            faulty[answer.ids] = self._chunk_faults(probe)
        names = set.intersection(*(set(f) for f in faulty.values()))
        fits = self._fits({n: partial(_named, faulty, n) for n in sorted(names)}, evidence)
        return fits or _finding("texts in chunks differ", evidence, None, "they are right whole")

    def _chunk_faults(self, probe: Probe) -> Mapping[str, Floats]:
        limit, whole = probe.chunked_at, self.reference.whole_ids(probe)
        assert limit is not None
        case = chunks.Overflow(
            self.reference.prompt_of(probe),
            self.reference.chunks(probe),
            (*whole[: limit - 1], whole[-1]),
            self.reference.checkpoint.normalize,
        )
        sound = self.interpreter.sound
        return chunks.faults(
            case, lambda ids: self.interpreter.vectors(sound, [ids])[0], self.reference.token_ids
        )


def _named(faulty: Mapping[tuple[int, ...], Mapping[str, Floats]], name: str, evidence: Evidence) -> Floats:
    return faulty[evidence.ids][name]


def _row(vectors: Floats, rows: Mapping[tuple[int, ...], int], evidence: Evidence) -> Floats:
    vector: Floats = vectors[rows[evidence.ids]]
    return vector


def _only_there(case: Case, passed_alone: set[str]) -> bool:
    return bool(case.failures) and case.probe in passed_alone


def _finding(
    name: str, evidence: Sequence[Evidence], to_fault: float | None, detail: str | None = None
) -> Finding:
    to_reference = min(Figures.of(e.expected, e.found).cosine for e in evidence)
    said = f"cosine to the reference {to_reference:.6f}"
    if to_fault is not None:
        said += f", to the reference with this fault {to_fault:.6f}"
    return Finding(name, f"{said}; {detail}" if detail else said, to_reference, to_fault)
