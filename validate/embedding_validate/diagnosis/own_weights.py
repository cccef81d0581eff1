"""Finds what is wrong with a quantized graph by trying faults on the weights that the graph itself stores.

The rounding of weights then plays no part in the comparison; if the graph exposes its residuals, neither does
the rounding of activations.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from embedding_export.architectures.interface.tensors import Part
from embedding_export.architectures.registry import tensor_specs
from embedding_export.audit.dequantized import dequantized
from embedding_export.checkpoint.checkpoint import Checkpoint
from embedding_export.weights.folding import Weights, as_stored
from embedding_runtime.bundle import Graph
from embedding_validate.diagnosis import hypotheses
from embedding_validate.diagnosis.fitting import Evidence, Fit, best, finding, most_error
from embedding_validate.forward.interpreter import Interpreter, Model
from embedding_validate.forward.rounded_ops import ROUNDINGS
from embedding_validate.measures import metrics
from embedding_validate.measures.thresholds import execution_threshold
from embedding_validate.parity.execution import Halves, as_computed, complete
from embedding_validate.parity.results import Finding
from embedding_validate.runners.calls import Floats

# Within a part, factors that were moved between tensors cancel: its rounding can be told apart.
_PART_NAMES: dict[Part, str] = {"table": "the table"}


@dataclass(frozen=True)
class OwnWeights:
    """A graph, the weights it stores, and the checkpoint it should have come from, in the graph's ids.

    `length` maps a number of tokens to the length to which such a text is padded (0: not padded).
    """

    checkpoint: Checkpoint
    graph: Graph
    path: Path
    length: Callable[[int], int]

    def findings(self, evidence: Sequence[Evidence]) -> list[Finding]:
        """Findings on faults other than the stored weights; none if those weights explain the vectors."""
        weights = dequantized(self.path, self.checkpoint)
        if not complete(weights, self.checkpoint):
            return []
        sound = Model(self.checkpoint.config, weights.dense, self.checkpoint.normalize)
        fit = self._fits(weights, evidence)
        fits = [fit(sound, e) for e in evidence]
        if all(f.passes for f in fits):
            return []
        faults = dict(hypotheses.alone(sound.config, sound.dense))
        if self.graph.buckets:
            faults |= hypotheses.padded()
        models = {n: partial(fit, f(sound)) for n, f in faults.items()}
        named = best(models, evidence, most_error([f.error for f in fits]))
        return [named or self._localised(weights, evidence)]

    def beyond_class(self, evidence: Sequence[Evidence]) -> Finding:
        """The finding if all weights are rounded correctly: which part's rounding costs how much."""
        stored, true = dequantized(self.path, self.checkpoint), as_stored(self.checkpoint)
        specs, costs = tensor_specs(self.checkpoint.config), []
        for part in dict.fromkeys(spec.part for spec in specs.values() if spec.part != "head"):
            own = {n for n, spec in specs.items() if spec.part == part and n in stored.tensors}
            mixed = {n: stored.tensors[n] if n in own else t for n, t in true.tensors.items()}
            weights = replace(true, tensors=mixed)
            interpreter = Interpreter(self.checkpoint.config, weights, self.checkpoint.normalize)
            vectors = [(self._vector(interpreter, interpreter.sound, e), e.expected) for e in evidence]
            costs.append(
                f"{_PART_NAMES.get(part, part)} {min(metrics.cosine(*pair) for pair in vectors):.4f}"
            )
        return finding(
            "quantization error beyond its class",
            evidence,
            None,
            "every stored weight is the nearest its format has, and the graph computes with it as it should; "
            f"with the rounding of one part alone the cosine is: {', '.join(costs)}",
        )

    def _fits(self, weights: Weights, evidence: Sequence[Evidence]) -> Callable[[Model, Evidence], Fit]:
        limits = execution_threshold(self.graph.format, self.graph.precision)
        if self._halves:
            halves = Halves(self.checkpoint, weights, self.path)
            rounding = halves.rounding(evidence[0].ids, self.graph.precision)

            def by_halves(model: Model, e: Evidence) -> Fit:
                executed = halves.executed(model, e.ids, rounding)
                fit = Fit.of(executed.vector, e.actual, limits.failures)
                passes = fit.passes and executed.update_error <= (limits.update_error or 0.0)
                return Fit(passes, max(fit.error, executed.update_error), fit.cosine)

            return by_halves
        interpreter = Interpreter(self.checkpoint.config, weights, self.checkpoint.normalize)

        def by_vectors(model: Model, e: Evidence) -> Fit:
            expected = self._vector(interpreter, as_computed(model, self.graph, self.path), e)
            return Fit.of(expected, e.actual, limits.failures)

        return by_vectors

    @property
    def _halves(self) -> bool:
        return self.graph.format == "onnx" and self.graph.precision in ROUNDINGS

    def _vector(self, interpreter: Interpreter, model: Model, e: Evidence) -> Floats:
        vector: Floats = interpreter.vectors(model, [e.ids], self.length(len(e.ids)))[0]
        return vector

    def _localised(self, weights: Weights, evidence: Sequence[Evidence]) -> Finding:
        name = "no known fault: the graph does not compute what its own weights give"
        if not self._halves:
            return finding(name, evidence, None)
        halves = Halves(self.checkpoint, weights, self.path)
        rounding = halves.rounding(evidence[0].ids, self.graph.precision)
        tried = [halves.executed(halves.sound, e.ids, rounding) for e in evidence]
        worst = max(tried, key=lambda executed: executed.update_error)
        limit = execution_threshold(self.graph.format, self.graph.precision).update_error or 0.0
        if worst.update_error <= limit:
            return finding(name, evidence, None, "the difference lies after the last layer")
        error = f"relative error of what it adds {worst.update_error:.1e}, by its own weights and rounding"
        return finding(f"{worst.residual} differs", evidence, None, error)
