"""What a graph should give by its own weights: the forward pass on the weights as they are stored.

Rounding weights loses something, which is another question; a graph that computes correctly with what it
stores agrees far better with this. Needs torch and onnx; knows nothing of verdicts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from embedding_export.checkpoint import Checkpoint
from embedding_export.dequantized import dequantized
from embedding_export.encoder import encode
from embedding_export.folding import ArrayWeight, Weights
from embedding_export.stored import score_scales
from embedding_runtime.bundle import Graph
from embedding_runtime.errors import EmbeddingError
from embedding_validate import metrics
from embedding_validate.answers import Answers
from embedding_validate.calls import Floats
from embedding_validate.hypotheses import Ids, Interpreter
from embedding_validate.layers import Layers
from embedding_validate.metrics import Figures
from embedding_validate.rounded_ops import ROUNDINGS, RoundedOps, Rounding
from embedding_validate.thresholds import threshold

# Each probe costs a forward pass in torch.
_MOST_TOKENS = 700
_MOST_PROBES = 16


class ExecutionError(EmbeddingError):
    """The forward pass in torch is not the reference's, so that it can judge nothing."""


@dataclass(frozen=True)
class Executed:
    """What a graph should give for one text: its vector, float32 (dim,), from the graph's last residual.

    `update_error` is the largest relative error of what a half of a layer adds, `half` that half's name.
    """

    vector: Floats
    update_error: float = 0.0
    half: str = ""


class Execution:
    """For the graphs of one checkpoint; `answers` are the reference's, in the checkpoint's own ids."""

    def __init__(self, checkpoint: Checkpoint, answers: Answers) -> None:
        self._checkpoint = checkpoint
        self._answers = answers
        self._sound = False

    def expected(self, bundle: Path, graph: Graph, answers: Answers) -> Mapping[str, Executed]:
        """What some probes should give by the graph's own weights, `answers` being in the graph's ids.

        Empty for fp32, which holds the checkpoint's weights themselves, so that the reference answers for it.
        Rounding of activations is followed where the graph shows its residuals: in ONNX, not in LiteRT.

        Raises:
            ExecutionError: with the checkpoint's own weights the forward pass is not the reference's, or a
            graph that rounds activations does not show its residuals.
        """
        if graph.precision == "fp32":
            return {}
        self._require_sound()
        path, names = bundle / graph.file, _spread(answers, _MOST_PROBES)
        weights = dequantized(path, self._checkpoint)
        if graph.format == "onnx" and graph.precision in ROUNDINGS:
            texts = {name: answers.by_probe[name].ids for name in names}
            return _by_halves(self._checkpoint, weights, path, texts, ROUNDINGS[graph.precision])
        interpreter = Interpreter(self._checkpoint.config, weights, self._checkpoint.normalize)
        return {name: Executed(v) for name, v in _vectors(interpreter, answers, names).items()}

    def _require_sound(self) -> None:
        """Once: hold the forward pass itself against the reference, on three lengths."""
        if self._sound:
            return
        found = _vectors(Interpreter.of(self._checkpoint), self._answers, _spread(self._answers, 3))
        for name, vector in found.items():
            right = self._answers.by_probe[name].vector
            if failures := threshold("fp32").failures(metrics.norm(right), Figures.of(right, vector)):
                raise ExecutionError(
                    f"The forward pass in torch does not give the reference's vector for probe {name!r}: "
                    f"{'; '.join(failures)}. Execution cannot be judged; please report this checkpoint."
                )
        self._sound = True


def _by_halves(
    checkpoint: Checkpoint,
    weights: Weights,
    path: Path,
    texts: Mapping[str, Ids],
    roundings: Sequence[Rounding],
) -> dict[str, Executed]:
    """Each text through `RoundedOps`; of several roundings the one that fits the first text is the CPU's."""
    layers, scores = Layers(path), score_scales(path)
    count = checkpoint.config.num_hidden_layers
    if (len(layers.names), len(scores)) != (1 + 2 * count, count):
        raise ExecutionError(
            f"{path.name} shows {len(layers.names)} residuals and {len(scores)} int8 products of queries and "
            f"keys; expected {1 + 2 * count} and {count}. Export the bundle again with this version."
        )
    kept = Weights({n: ArrayWeight(t.array()) for n, t in weights.tensors.items()}, weights.dense)
    found = {}
    for name, ids in texts.items():
        given = {n: torch.from_numpy(r[None].copy()) for n, r in layers.run(ids).items()}
        tried = {
            rounding: _executed(
                checkpoint, RoundedOps(checkpoint.config, kept, torch.tensor([ids]), given, rounding, scores)
            )
            for rounding in roundings
        }
        roundings = sorted(tried, key=lambda r: tried[r].update_error)[:1]
        found[name] = tried[roundings[0]]
    return found


def _executed(checkpoint: Checkpoint, ops: RoundedOps) -> Executed:
    with torch.inference_mode():
        _, vector = encode(ops, checkpoint.config, ops.weights.dense, checkpoint.normalize)
    half = max(ops.errors, key=ops.errors.__getitem__)
    return Executed(vector[0].numpy(), ops.errors[half], half)


def _vectors(interpreter: Interpreter, answers: Answers, names: list[str]) -> dict[str, Floats]:
    return {n: interpreter.vectors(interpreter.sound, [answers.by_probe[n].ids])[0] for n in names}


def _spread(answers: Answers, most: int) -> list[str]:
    """Up to `most` probes, spread over the lengths that are quick enough."""
    whole = [p.id for p in answers.probes.probes if p.chunked_at is None]
    lengths = {name: len(answers.by_probe[name].ids) for name in whole}
    names = sorted((n for n, tokens in lengths.items() if tokens <= _MOST_TOKENS), key=lengths.__getitem__)
    if len(names) <= most:
        return names
    return [names[round(i * (len(names) - 1) / (most - 1))] for i in range(most)]
