"""For the tests: graphs of a checkpoint in any precision, run by ONNX Runtime and by torch."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embedding_export.architectures.encoder import encode
from embedding_export.architectures.encoder_config import EncoderConfig
from embedding_export.bundle import describe
from embedding_export.checkpoint.checkpoint import Checkpoint
from embedding_export.onnx.writer import write_onnx
from embedding_export.weights.encoder import Encoder
from embedding_export.weights.folding import ArrayWeight, Weights, as_stored, folded
from embedding_export.weights.precisions import precision_row
from embedding_runtime.bundle import Precision
from embedding_runtime.engines.onnx_session import OnnxSession
from embedding_validate.forward.torch_ops import TorchOps

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]


def write(checkpoint: Checkpoint, folder: Path, precision: Precision) -> Path:
    """The graph's path."""
    row = precision_row(precision, checkpoint.source.qat)
    weights = folded(checkpoint) if row.fold_dense else as_stored(checkpoint)
    dim = describe.embedding_dim(checkpoint)
    path = folder / row.onnx_file
    sample = tuple(tuple(t.tolist()) for t in texts(checkpoint, [50, 20]))
    encoder = Encoder(checkpoint.config, weights, checkpoint.normalize, dim, sample)
    write_onnx(encoder, path, lambda _: None, row)
    return path


def with_tensors(checkpoint: Checkpoint, changed: Mapping[str, Floats]) -> Checkpoint:
    """The checkpoint with some tensors replaced."""
    tensors: dict[str, Any] = dict(checkpoint.tensors)
    tensors.update({n: ArrayWeight(np.asarray(a, np.float32)) for n, a in changed.items()})
    return replace(checkpoint, tensors=tensors)


def texts(checkpoint: Checkpoint, lengths: list[int]) -> list[Ids]:
    """Random ids, one array for each length."""
    rng = np.random.default_rng(0)
    return [rng.integers(5, checkpoint.config.vocab_size, n, dtype=np.int64) for n in lengths]


def run(path: Path, batch: list[Ids], length: int = 0, output: str = "sentence_embedding") -> Floats:
    """An output for one batch, padded on the right to its longest or to `length`."""
    ids = np.zeros((len(batch), max(length, *map(len, batch), 1)), np.int64)
    mask = np.zeros_like(ids)
    for i, text in enumerate(batch):
        ids[i, : len(text)], mask[i, : len(text)] = text, 1
    return OnnxSession(path, 2).run(ids, mask, (output,))[0]


def reference(checkpoint: Checkpoint, weights: Weights, text: Ids) -> Floats:
    """The vector that torch gives for `weights` in float32."""
    return forward(checkpoint.config, weights, text, checkpoint.normalize)


def forward(config: EncoderConfig, weights: Weights, text: Ids, normalize: bool) -> Floats:
    """The same for any shape of model."""
    ids = torch.from_numpy(text[None])
    ops = TorchOps(config, weights, ids, torch.ones_like(ids))
    with torch.no_grad():
        _, vector = encode(ops, config, weights.dense, normalize)
    return np.asarray(vector[0].numpy(), np.float32)


def with_key_heads(config: EncoderConfig, weights: Weights) -> Weights:
    """Random key and value matrices for as many key heads as `config` says."""
    rng = np.random.default_rng(config.num_key_value_heads)
    shape = (config.num_key_value_heads * config.head_dim, config.hidden_size)
    tensors = dict(weights.tensors)
    for name in [n for n in tensors if ".k_proj." in n or ".v_proj." in n]:
        tensors[name] = ArrayWeight(rng.standard_normal(shape).astype(np.float32) / np.float32(8))
    return Weights(tensors, weights.dense)
