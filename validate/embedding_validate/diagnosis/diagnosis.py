"""Names what is wrong with a graph that failed: the fault with which the reference gives the graph's vectors.

It starts from the failures that `parity` found. Faults of tokens are named from ids, the others from vectors;
if no known fault explains a failure, the first layer that differs is named.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from embedding_export.architectures.registry import residuals, tensor_specs
from embedding_export.audit.audit import differences
from embedding_export.checkpoint.checkpoint import Checkpoint
from embedding_export.errors import AuditError
from embedding_runtime.bundle import BundleGraph, Graph, Manifest, bundle_graphs, load_manifest
from embedding_validate.diagnosis import hypotheses, stored_faults, tokens
from embedding_validate.diagnosis.fitting import Evidence, Fit, best, finding, most_error
from embedding_validate.diagnosis.own_weights import OwnWeights
from embedding_validate.diagnosis.tokens import Mismatch
from embedding_validate.forward.interpreter import Interpreter, Model
from embedding_validate.forward.layers import first_deviation
from embedding_validate.measures import metrics
from embedding_validate.measures.metrics import Figures
from embedding_validate.measures.thresholds import Threshold, threshold
from embedding_validate.parity import weights
from embedding_validate.parity.results import (
    ERROR,
    EXECUTED,
    IN_BUCKET,
    TOKEN_STATES,
    Case,
    Finding,
    GraphReport,
    Report,
)
from embedding_validate.probes.probes import Probe
from embedding_validate.reference import chunks
from embedding_validate.reference.answers import Answers
from embedding_validate.reference.reference import Reference
from embedding_validate.runners.calls import Call, Floats, Runner, open_graph, run

# Evidence is short where it can be: each hypothesis costs a forward pass over it.
_MOST_TOKENS = 1100
_MOST_MISMATCHES = 12
# Relative error of a residual above which a layer differs; rounding stays below 1e-4 to the last layer.
_LAYER_BOUND = 1e-3
# Of the error of no fault, what one may leave: the rounding of float32, enlarged.
_UNEXPLAINED = 0.005


def diagnose(
    bundle: Path, report: Report, reference: Reference, answers: Answers, manifest: Manifest | None = None
) -> Report:
    """The same report with findings for every graph that failed; `manifest` as for `parity.check`."""
    manifest = load_manifest(bundle) if manifest is None else manifest
    graphs = {
        g.key: diagnose_graph(g, report.graphs[g.key], reference, answers)
        for g in bundle_graphs(bundle, manifest)
    }
    return replace(report, graphs=graphs)


def diagnose_graph(
    failed: BundleGraph, report: GraphReport, reference: Reference, answers: Answers
) -> GraphReport:
    """The same report; with findings if it failed. `answers` are in the reference's own ids."""
    if report.status != "failed":
        return report
    bundle, manifest, graph = failed.folder, failed.manifest, failed.graph
    kept_ids = manifest.tokenizer.kept_ids
    with open_graph(failed) as embedder:
        subject = Subject(
            run=partial(run, embedder),
            graph=graph,
            path=failed.path,
            checkpoint=weights.of_bundle(reference.checkpoint, bundle, manifest),
            same_weights=manifest.source.weights_sha256 == answers.source.weights_sha256,
            ours=True,
            kept_ids=np.load(bundle / kept_ids).tolist() if kept_ids else None,
        )
        own_answers = answers.for_bundle(bundle, manifest).for_graph(graph, manifest.tokenizer.pad_id)
        return diagnose_subject(subject, report, reference, own_answers)


def diagnose_subject(
    subject: "Subject", report: GraphReport, reference: Reference, answers: Answers
) -> GraphReport:
    """The same report with findings about the subject that failed."""
    case = _Diagnosis(subject, answers, reference, Interpreter.of(subject.checkpoint))
    return replace(report, findings=tuple(case.findings(report)))


@dataclass(frozen=True)
class Subject:
    """The subject of a diagnosis: how to run it, its file, and the checkpoint that it should match, in its
    own ids.

    `same_weights` says whether it was made from that checkpoint; `ours` says whether our exporter made it, so
    that its weights can be read; `kept_ids` has the reference's id for each id of a trimmed vocabulary.
    """

    run: Runner
    graph: Graph
    path: Path
    checkpoint: Checkpoint
    same_weights: bool
    ours: bool
    kept_ids: list[int] | None = None

    @property
    def own_weights(self) -> bool:
        """Whether to compare it with the weights that it stores, because these are not the checkpoint's."""
        return self.ours and self.same_weights and self.graph.precision != "fp32"

    def length(self, tokens: int) -> int:
        """The length to which a text of `tokens` tokens is padded; 0 if it is not padded."""
        return min((b for b in self.graph.buckets if tokens <= b), default=0)

    def for_reference(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Map its token ids to the checkpoint's."""
        return tuple(ids) if self.kept_ids is None else tuple(self.kept_ids[i] for i in ids)


@dataclass(frozen=True)
class _Diagnosis:
    subject: Subject
    answers: Answers
    reference: Reference
    interpreter: Interpreter

    @property
    def _loss(self) -> Threshold:
        return threshold(self.subject.graph.precision, self.answers.source.random_weights)

    def findings(self, report: GraphReport) -> Iterable[Finding]:
        alone = [c for c in report.cases if c.check == "alone" and not _refused(c)]
        if wrong_ids := [c for c in alone if c.ids_equal is False]:
            yield from self._tokens(wrong_ids)
        same_ids = [c for c in alone if c.ids_equal is not False]
        executed = {c.probe for c in report.cases if c.check == EXECUTED and c.failures}
        lost = {c.probe for c in same_ids if c.failures}
        loss = bool(lost) or _mean_only(same_ids, report.thresholds["cosine_mean"])
        if loss or executed:
            plain = self._pooled_whole(same_ids)
            if plain != same_ids and not (lost | executed) & {c.probe for c in plain}:
                yield self._prompts(same_ids, lost)
                return
            evidence = self._evidence(plain, lost | executed)
            if self.subject.own_weights:
                yield from self._quantized(evidence, self._stored(report), loss)
            else:
                yield from self._graph(evidence)
            return
        yield from self._stored(report)
        if states := [c for c in report.cases if c.check == TOKEN_STATES and c.failures]:
            yield _other_states(states)
        passed = {c.probe for c in alone if not c.failures}
        batches = {c.check for c in report.cases if c.check.startswith("batch") and _only_there(c, passed)}
        if batches:
            yield from self._padding(sorted(batches))
        if chunked := [c for c in report.cases if c.check == "chunked" and c.failures]:
            yield self._chunks(chunked)
        buckets = {IN_BUCKET.format(b) for b in self.subject.graph.buckets}
        if failures := {c.check: c for c in report.cases if c.check in buckets and c.failures}:
            least = min(c.figures.cosine for c in failures.values())
            evidence_text = f"they are right in their smallest bucket, and wrong in {', '.join(failures)}"
            yield Finding("vectors change with the bucket", evidence_text, least, None)

    def _stored(self, report: GraphReport) -> list[Finding]:
        """Findings on the weights in the file, unless they are known to be right."""
        is_right = report.weights is not None and not report.weights.failures
        if is_right or not (self.subject.ours and self.subject.same_weights):
            return []
        try:
            faults = differences(self.subject.path, self.subject.checkpoint)[1]
            return stored_faults.findings(faults, tensor_specs(self.subject.checkpoint.config))
        except AuditError as e:
            return [Finding("stored weights cannot be read", str(e), None, None)]

    def _quantized(
        self, evidence: Sequence[Evidence], stored: Sequence[Finding], loss: bool
    ) -> Iterable[Finding]:
        """Findings on stored weights, then on the computation with them, then on the cost of rounding."""
        subject = self.subject
        own = OwnWeights(subject.checkpoint, subject.graph, subject.path, subject.length)
        causes = [*stored, *own.findings(evidence)]
        yield from causes or ([own.beyond_class(evidence)] if loss else [])

    def _tokens(self, cases: Sequence[Case]) -> Iterable[Finding]:
        """Name the faults of ids; those of truncated texts count only if no others are wrong."""
        whole = [c for c in cases if c.tokens <= _MOST_TOKENS]
        sample = sorted(whole or cases, key=lambda c: c.tokens)[:_MOST_MISMATCHES]
        mismatches = []
        for case in sample:
            probe = self.answers.probes[case.probe]
            actual = self.subject.run(Call("alone", (probe,)))[0].ids or ()
            ids = self.answers.by_probe[probe.id].ids
            mismatches.append(
                Mismatch(probe, self.subject.for_reference(ids), self.subject.for_reference(actual))
            )
        explained = tokens.explain(mismatches, self.reference)
        if not explained:
            most = 2 * len(cases) > len(self.answers.probes.probes)
            name = "other tokenizer" if most else "token ids differ, for no known reason"
            yield Finding(name, f"other ids in {len(cases)} probes", None, None)
            return
        worst = min(c.figures.cosine for c in sample)
        for name, count in explained:
            yield Finding(name, f"explains the ids of {count} of {len(mismatches)} probes", worst, None)

    def _pooled_whole(self, cases: list[Case]) -> list[Case]:
        """Cases whose tokens are all in the mean: the forward pass in torch cannot leave prompts out."""
        if self.subject.checkpoint.include_prompt:
            return cases
        names = self.answers.without_prompts().by_probe
        return [c for c in cases if c.probe in names]

    def _prompts(self, cases: Sequence[Case], lost: Set[str]) -> Finding:
        """The finding if only texts with a prompt are wrong, for a model without prompts in the mean."""
        return finding(
            "the prompt's tokens are in the mean, or others are left out",
            self._evidence(cases, lost),
            None,
            "texts without a prompt are right, and the checkpoint has include_prompt false",
        )

    def _evidence(self, cases: Sequence[Case], probes: Set[str]) -> list[Evidence]:
        """Two short texts that fail, two that pass, two just past the window, and the worst; shortest
        first."""
        ordered = sorted((c for c in cases if 2 < c.tokens <= _MOST_TOKENS), key=lambda c: c.tokens)
        failed = [c for c in ordered if c.probe in probes]
        passed = [c for c in ordered if c.probe not in probes]
        edge = (self.reference.limits.window or 0) + 2
        past = [c for c in ordered if edge <= c.tokens]
        worst = sorted(failed or ordered, key=lambda c: c.figures.cosine)[:1]
        sample = {c.probe: c for c in [*failed[:2], *passed[:2], *past[:2], *worst]}
        evidence = []
        for case in sorted(sample.values(), key=lambda c: c.tokens):
            answer = self.answers.by_probe[case.probe]
            vector = self.subject.run(Call("alone", (self.answers.probes[case.probe],)))[0].vector
            evidence.append(Evidence(answer.ids, vector, answer.vector))
        return evidence

    def _graph(self, evidence: Sequence[Evidence]) -> Iterable[Finding]:
        sound = self.interpreter.sound
        if any(self._misses(e.expected, self._vector(sound, e)) for e in evidence):
            yield finding("not diagnosed: the encoder in torch does not give the reference's", evidence, None)
            return
        faults = dict(hypotheses.alone(sound.config, sound.dense))
        if self.subject.graph.buckets:
            faults |= hypotheses.padded()
        models = {name: partial(self._fit, f(sound)) for name, f in faults.items()}
        yield best(models, evidence, self._most(evidence)) or self._localised(evidence)

    def _most(self, evidence: Sequence[Evidence]) -> float:
        """The largest error that a fault may have: if rounding plays a part, it must be far below the error
        without a fault."""
        if self.subject.graph.precision in ("fp32", "fp16"):
            return float("inf")
        return most_error([Figures.of(e.expected, e.actual).max_abs_error for e in evidence])

    def _vector(self, model: Model, evidence: Evidence) -> Floats:
        length = self.subject.length(len(evidence.ids))
        vector: Floats = self.interpreter.vectors(model, [evidence.ids], length)[0]
        return vector

    def _fit(self, model: Model, evidence: Evidence) -> Fit:
        return self._passes(self._vector(model, evidence), evidence)

    def _passes(self, vector: Floats, evidence: Evidence) -> Fit:
        """A faulty model may make much of a last digit: what leaves so little unexplained passes too."""
        fit = Fit.of(vector, evidence.actual, self._loss.failures)
        whole = Figures.of(evidence.expected, evidence.actual).max_abs_error
        explained = bool(np.isfinite(whole)) and fit.error <= _UNEXPLAINED * whole
        return replace(fit, passes=fit.passes or explained)

    def _misses(self, reference: Floats, actual: Floats) -> bool:
        figures = Figures.of(reference, actual)
        return bool(self._loss.failures(metrics.norm(reference), figures))

    def _localised(self, evidence: Sequence[Evidence]) -> Finding:
        """The finding on the first layer that differs, two exchanged layers, or another checkpoint."""
        if self.subject.graph.precision != "fp32":
            name = "no known fault: quantization error beyond its class, or a damaged tensor"
            return finding(name, evidence, None)
        e = next((e for e in evidence if self._misses(e.expected, e.actual)), evidence[-1])
        expected = self.interpreter.layers(e.ids)
        deviation = (
            first_deviation(self.subject.path, e.ids, expected, _LAYER_BOUND)
            if self.subject.graph.format == "onnx"
            else None
        )
        if not self.subject.same_weights:
            return finding("other checkpoint", evidence, None, "exported from other weights")
        if deviation is None:
            return finding("no known fault", evidence, None, "no layer was found that differs")
        config = self.interpreter.sound.config
        where = next(r for r in residuals(config) if r.name == deviation.name)
        shapes = [(layer.heads, layer.kv_heads, layer.head_dim) for layer in config.layers]
        swaps = {
            f"layers {where.layer} and {j} exchanged": partial(self._swapped, where.layer, j)
            for j, shape in enumerate(shapes)
            if j != where.layer and shape == shapes[where.layer]
        }
        return best(swaps, evidence) or finding(
            f"layer {where.layer} differs from its {where.part} block on",
            evidence,
            None,
            f"relative error {deviation.error:.1e} there, {deviation.error_before:.1e} before it",
        )

    def _swapped(self, first: int, second: int, evidence: Evidence) -> Fit:
        other = self.interpreter.exchanged(first, second)
        return self._passes(other.vectors(other.sound, [evidence.ids])[0], evidence)

    def _padding(self, batches: Sequence[str]) -> Iterable[Finding]:
        """Findings if texts fail only in a batch: runs the faulty models on the same padded batch."""
        number = int(batches[0].split()[1])
        probes = tuple(self.answers.probes[i] for i in self.answers.probes.batches[number - 1])
        results = self.subject.run(Call(batches[0], probes))
        answers = [self.answers.by_probe[p.id] for p in probes]
        evidence = [Evidence(a.ids, r.vector, a.vector) for a, r in zip(answers, results, strict=True)]
        batch = [e.ids for e in evidence]
        vectors = {
            name: self.interpreter.vectors(fault(self.interpreter.sound), batch)
            for name, fault in hypotheses.padded().items()
        }
        rows = {e.ids: i for i, e in enumerate(evidence)}
        fits = best({n: partial(self._row, v, rows) for n, v in vectors.items()}, evidence)
        yield fits or finding("vectors change with the batch", evidence, None, "they are right alone")

    def _chunks(self, cases: Sequence[Case]) -> Finding:
        """The finding if texts fail only in chunks, by the vectors that known mistakes would give."""
        evidence, faulty = [], {}
        for case in cases:
            probe, answer = self.answers.probes[case.probe], self.answers.by_probe[case.probe]
            vector = self.subject.run(Call("chunked", (probe,)))[0].vector
            evidence.append(Evidence(answer.ids, vector, answer.vector))
            faulty[answer.ids] = self._chunk_faults(probe)
        names = set.intersection(*(set(f) for f in faulty.values()))
        fits = best({n: partial(self._chunked, faulty, n) for n in sorted(names)}, evidence)
        return fits or finding("texts in chunks differ", evidence, None, "they are right whole")

    def _row(self, vectors: Floats, rows: Mapping[tuple[int, ...], int], evidence: Evidence) -> Fit:
        return self._passes(vectors[rows[evidence.ids]], evidence)

    def _chunked(
        self, faulty: Mapping[tuple[int, ...], Mapping[str, Floats]], name: str, evidence: Evidence
    ) -> Fit:
        return self._passes(faulty[evidence.ids][name], evidence)

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


def _refused(case: Case) -> bool:
    """Whether the runtime gave an error instead of a vector. A vector with NaN, or of another shape, counts
    as a vector."""
    return any(failure.startswith(ERROR) for failure in case.failures)


def _other_states(cases: Sequence[Case]) -> Finding:
    least = min(c.figures.cosine for c in cases)
    words = f"cosine {least:.6f} to the reference's last hidden states, while the vectors are right"
    return Finding("token states that are not those that are pooled", words, least, None)


def _only_there(case: Case, passed_alone: set[str]) -> bool:
    return bool(case.failures) and case.probe in passed_alone


def _mean_only(cases: Sequence[Case], least: float) -> bool:
    """Whether every text passes by itself but the mean over all of them is too low."""
    return bool(cases) and not float(np.mean([c.figures.cosine for c in cases])) >= least
