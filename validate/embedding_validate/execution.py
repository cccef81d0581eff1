"""What a graph should give by its own weights: the forward pass on the weights as they are stored.

Rounding weights loses something, which is another question; a graph that computes correctly with what it
stores agrees far better with this. Needs torch and onnx; knows nothing of verdicts.
"""

from collections.abc import Mapping
from pathlib import Path

from embedding_export.checkpoint import Checkpoint
from embedding_export.stored import dequantized
from embedding_runtime.bundle import Graph
from embedding_runtime.errors import EmbeddingError
from embedding_validate import metrics
from embedding_validate.answers import Answers
from embedding_validate.calls import Floats
from embedding_validate.hypotheses import Interpreter
from embedding_validate.metrics import Figures
from embedding_validate.thresholds import threshold

# Each probe costs a forward pass in torch.
_MOST_TOKENS = 700
_MOST_PROBES = 16


class ExecutionError(EmbeddingError):
    """The forward pass in torch is not the reference's, so that it can judge nothing."""


class Execution:
    """For the graphs of one checkpoint; `answers` are the reference's, in the checkpoint's own ids."""

    def __init__(self, checkpoint: Checkpoint, answers: Answers) -> None:
        self._checkpoint = checkpoint
        self._answers = answers
        self._sound = False

    def vectors(self, bundle: Path, graph: Graph, answers: Answers) -> Mapping[str, Floats]:
        """Vectors of some probes by the graph's own weights, `answers` being in the graph's ids.

        Empty for fp32, which holds the checkpoint's weights themselves, so that the reference answers for it,
        and for other formats than ONNX, whose weights have no reader yet.

        Raises:
            ExecutionError: with the checkpoint's own weights the forward pass is not the reference's.
        """
        if graph.precision == "fp32" or graph.format != "onnx":
            return {}
        self._require_sound()
        weights = dequantized(bundle / graph.file, self._checkpoint)
        interpreter = Interpreter(self._checkpoint.config, weights, self._checkpoint.normalize)
        return _vectors(interpreter, answers, _spread(answers, _MOST_PROBES))

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
