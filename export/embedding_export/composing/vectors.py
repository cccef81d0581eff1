"""The vectors that float32 weights give for some texts; compositions are compared with them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embedding_export.architectures.interface.ops import DenseStage
from embedding_export.architectures.registry import encode
from embedding_export.weights.calibration import Calibration, Watched
from embedding_export.weights.encoder import Encoder
from embedding_runtime.vectors import l2_normalize

Floats = NDArray[np.float32]


def exact_vectors(encoder: Encoder, texts: Sequence[Sequence[int]]) -> Floats:
    """The sentence embeddings of some texts' token ids, float32 [texts, dim]; all tokens are in the mean."""
    ids = np.array([i for text in texts for i in text])
    ops = _Vectors(encoder.config, encoder.weights, ids, [len(t) for t in texts], Calibration())
    return encode(ops, encoder.config, encoder.weights.dense, encoder.normalize)[1]


class _Vectors(Watched):
    """The complete forward pass of `calibrate`, which gives a vector for each text, without watching
    products."""

    def linear(self, x: Floats, *weights: str) -> tuple[Floats, ...]:
        return tuple(x @ self._weights.tensors[name].array().T for name in weights)

    def mean_pool(self, x: Floats) -> Floats:
        return np.stack([x[text].mean(axis=0) for text in self._texts])

    def dense(self, x: Floats, stage: DenseStage) -> Floats:
        y = x @ self._weights.tensors[stage.weight].array().T
        if stage.bias is not None:
            y = y + self._weights.tensors[stage.bias].array()
        return np.asarray(np.tanh(y) if stage.activation == "tanh" else y, np.float32)

    def l2_normalize(self, x: Floats) -> Floats:
        return l2_normalize(x)
