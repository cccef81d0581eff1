"""Runs the exporter's own encoder in torch, on weights in memory, as it is or changed by the caller."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedding_export.architectures.interface.figures import Figures
from embedding_export.architectures.interface.ops import DenseStage
from embedding_export.architectures.interface.tensors import layer_prefix
from embedding_export.architectures.registry import encode
from embedding_export.checkpoint.checkpoint import Checkpoint
from embedding_export.weights.folding import Weights, as_stored
from embedding_validate.forward.lean_weights import LeanWeights
from embedding_validate.forward.torch_ops import TorchOps

Floats = NDArray[np.float32]
Ids = Sequence[int]


@dataclass(frozen=True)
class Model:
    """A forward pass: figures, stages, and the interpreter that runs it."""

    config: Figures
    dense: tuple[DenseStage, ...]
    normalize: bool
    ops: type[TorchOps] = TorchOps


class Interpreter:
    """Weights in memory (float32, without the table), on which sound and faulty models run."""

    def __init__(self, config: Figures, weights: Weights, normalize: bool) -> None:
        self._weights = LeanWeights(weights)
        self.sound = Model(config, weights.dense, normalize)

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "Interpreter":
        """The checkpoint's own weights."""
        return cls(checkpoint.config, as_stored(checkpoint), checkpoint.normalize)

    def vectors(self, model: Model, batch: Sequence[Ids], length: int = 0) -> Floats:
        """Vectors (N, dim) of sequences of ids, which are right-padded with 0 to the longest, and at least to
        `length`."""
        return self._run(model, batch, length)[0]

    def layers(self, ids: Ids) -> dict[str, Floats]:
        """The sound model's named residuals (tokens, hidden), in the order in which they are computed."""
        return {name: t[0].numpy() for name, t in self._run(self.sound, [ids])[1].items()}

    def exchanged(self, first: int, second: int) -> "Interpreter":
        """The same interpreter with the weights of two layers exchanged."""
        one, two = layer_prefix(first), layer_prefix(second)
        swap = {one: two, two: one}
        other = object.__new__(Interpreter)
        other.sound, other._weights = self.sound, self._weights.renamed(swap)
        return other

    def _run(self, model: Model, batch: Sequence[Ids], length: int = 0) -> tuple[Floats, dict[str, Tensor]]:
        weights, ids, mask = self._weights.for_batch(batch, length)
        ops = model.ops(model.config, weights, ids, mask)
        with torch.inference_mode():
            _, vectors = encode(ops, model.config, model.dense, model.normalize)
        return vectors.numpy(), ops.layers
