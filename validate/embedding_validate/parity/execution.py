"""Computes the vectors that a graph should give with its own weights: the forward pass on the stored weights.

Whether rounding the weights loses too much is another question; a graph that computes correctly agrees far
better with these vectors than with the reference's. Needs torch and onnx.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from embedding_export.architectures.registry import encode, residuals, tensor_specs
from embedding_export.audit.dequantized import dequantized
from embedding_export.checkpoint.checkpoint import Checkpoint
from embedding_export.weights.folding import Weights
from embedding_runtime.bundle import BundleGraph, Graph
from embedding_runtime.errors import EmbeddingError
from embedding_validate.forward.interpreter import Ids, Interpreter, Model
from embedding_validate.forward.layers import EMBEDDINGS, Layers
from embedding_validate.forward.lean_weights import LeanWeights
from embedding_validate.forward.rounded_ops import ROUNDINGS, Products, RoundedOps, Rounding, TokenOps, exact
from embedding_validate.forward.torch_ops import TorchOps
from embedding_validate.measures import metrics
from embedding_validate.measures.metrics import Figures
from embedding_validate.measures.thresholds import threshold
from embedding_validate.reference.answers import Answers
from embedding_validate.runners.calls import Floats

# Each probe costs a forward pass in torch. Texts that fill a bucket of a LiteRT graph come on top.
_MOST_TOKENS = 700
_MOST_PROBES = 16


class ExecutionError(EmbeddingError):
    """The forward pass in torch differs from the reference's, so it cannot judge graphs."""


@dataclass(frozen=True)
class Executed:
    """A graph's expected output for one text: a vector, float32 (dim,), from its last residual.

    `update_error` is the largest relative error of what a part of a layer adds, and `residual` names the sum
    that it adds to.
    """

    vector: Floats
    update_error: float = 0.0
    residual: str = ""


class Execution:
    """The execution check for the graphs of one checkpoint; `answers` are the reference's, in the
    checkpoint's own ids."""

    def __init__(self, checkpoint: Checkpoint, answers: Answers) -> None:
        self._checkpoint = checkpoint
        self._answers = self._pooled_whole(answers)
        self._sound = False

    def expected(self, bundle_graph: BundleGraph, answers: Answers) -> Mapping[str, Executed]:
        """The outputs that the graph's own weights should give; `answers` are in the graph's ids.

        The result is empty for fp32, whose weights are the checkpoint's, so that the reference itself covers
        it; and for a graph that lacks tensors, which the weight check reports. The rounding of activations is
        followed from each of the graph's residuals to the next in ONNX, and through the whole pass in LiteRT,
        which shows no residuals.

        Raises:
            ExecutionError: with the checkpoint's own weights the forward pass is not the reference's, or a
            graph that rounds activations does not show its residuals.
        """
        graph, path = bundle_graph.graph, bundle_graph.path
        if graph.precision == "fp32":
            return {}
        self._require_sound()
        answers = self._pooled_whole(answers)
        names = list(dict.fromkeys([*_spread(answers, _MOST_PROBES), *_full(answers, graph.buckets)]))
        weights = dequantized(path, self._checkpoint)
        if not complete(weights, self._checkpoint):
            return {}
        if graph.format == "onnx" and graph.precision in ROUNDINGS:
            halves = Halves(self._checkpoint, weights, path)
            texts = {name: answers.by_probe[name].ids for name in names}
            rounding = halves.rounding(texts[names[0]], graph.precision) if names else exact
            return {n: halves.executed(halves.sound, ids, rounding) for n, ids in texts.items()}
        interpreter = Interpreter(self._checkpoint.config, weights, self._checkpoint.normalize)
        model = as_computed(interpreter.sound, graph, path)
        return {name: Executed(v) for name, v in _vectors(interpreter, model, answers, names).items()}

    def _pooled_whole(self, answers: Answers) -> Answers:
        """Answers whose tokens are all in the mean: the forward pass in torch cannot leave prompts out."""
        return answers if self._checkpoint.include_prompt else answers.without_prompts()

    def _require_sound(self) -> None:
        """Compare the forward pass itself with the reference on three lengths, once."""
        if self._sound:
            return
        interpreter = Interpreter.of(self._checkpoint)
        vectors = _vectors(interpreter, interpreter.sound, self._answers, _spread(self._answers, 3))
        for name, vector in vectors.items():
            right = self._answers.by_probe[name].vector
            if failures := threshold("fp32").failures(metrics.norm(right), Figures.of(right, vector)):
                raise ExecutionError(
                    f"The forward pass in torch does not give the reference's vector for probe {name!r}: "
                    f"{'; '.join(failures)}. Execution cannot be judged; please report this checkpoint."
                )
        self._sound = True


def as_computed(model: Model, graph: Graph, path: Path) -> Model:
    """A forward pass, sound or faulty, with the activation rounding of a LiteRT graph."""
    rounds = graph.format == "litert" and graph.precision != "fp32"
    return replace(model, ops=TokenOps.of(model.ops, Products.of(path))) if rounds else model


def complete(weights: Weights, checkpoint: Checkpoint) -> bool:
    """Whether a graph's own weights include all that the forward pass reads before the Dense stages."""
    return tensor_specs(checkpoint.config).keys() <= weights.tensors.keys()


class Halves:
    """A quantized ONNX graph of ours, with its residuals, weights and rounding, on which models run."""

    def __init__(self, checkpoint: Checkpoint, weights: Weights, path: Path) -> None:
        """Open the graph at `path`, which stores `weights`.

        Raises:
            ExecutionError: it does not show its residuals.
        """
        from embedding_export.onnx.reader import score_scales  # needs onnx: not for LiteRT

        names = [EMBEDDINGS, *(r.name for r in residuals(checkpoint.config))]
        self._layers, self._scores = Layers(path, names), score_scales(path)
        self._weights, self._products = LeanWeights(weights), Products.of(path)
        self.sound = Model(checkpoint.config, weights.dense, checkpoint.normalize)
        count = len(checkpoint.config.layer_types)
        if (len(self._layers.names), len(self._scores)) != (len(names), count):
            raise ExecutionError(
                f"{path.name} shows {len(self._layers.names)} residuals and {len(self._scores)} int8 scores, "
                f"not {len(names)} and {count}. Export the bundle again with this version."
            )

    def executed(self, model: Model, ids: Ids, rounding: Rounding) -> Executed:
        """Run a model, sound or faulty, on the graph's residuals for one text."""
        weights, at, _ = self._weights.for_batch([ids])
        residuals = {n: torch.from_numpy(r[None].copy()) for n, r in self._layers.run(ids).items()}
        kind = RoundedOps if model.ops is TorchOps else type("Faulty", (RoundedOps, model.ops), {})
        rounded = partial(self._products.rounded, rounding=rounding)
        ops = kind(model.config, weights, at, residuals, rounded, self._scores)
        with torch.inference_mode():
            _, vector = encode(ops, model.config, model.dense, model.normalize)
        worst = max(ops.errors, key=ops.errors.__getitem__)
        return Executed(vector[0].numpy(), ops.errors[worst], worst)

    def rounding(self, ids: Ids, precision: str) -> Rounding:
        """The rounding of this CPU: the one of the precision's roundings that fits a text best."""
        candidates = ROUNDINGS[precision]
        if len(candidates) == 1:
            return candidates[0]
        return min(candidates, key=lambda r: self.executed(self.sound, ids, r).update_error)


def _vectors(interpreter: Interpreter, model: Model, answers: Answers, names: list[str]) -> dict[str, Floats]:
    return {n: interpreter.vectors(model, [answers.by_probe[n].ids])[0] for n in names}


def _full(answers: Answers, buckets: Sequence[int]) -> list[str]:
    """The longest probe that each bucket holds, however slow."""
    lengths = _lengths(answers)
    held = [[n for n, tokens in lengths.items() if tokens <= size] for size in buckets]
    return [max(names, key=lengths.__getitem__) for names in held if names]


def _lengths(answers: Answers) -> dict[str, int]:
    """The number of tokens of each probe that runs in one piece."""
    return {p.id: len(answers.by_probe[p.id].ids) for p in answers.probes.probes if p.chunked_at is None}


def _spread(answers: Answers, most: int) -> list[str]:
    """Up to `most` probes, spread over the lengths that run fast enough."""
    lengths = _lengths(answers)
    names = sorted((n for n, tokens in lengths.items() if tokens <= _MOST_TOKENS), key=lengths.__getitem__)
    if len(names) <= most:
        return names
    return [names[round(i * (len(names) - 1) / (most - 1))] for i in range(most)]
