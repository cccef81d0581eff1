"""For the tests: graphs of a checkpoint in any precision, run by ONNX Runtime and by torch."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import standin
import torch
from numpy.typing import NDArray

from embedding_export.architectures.interface.figures import Figures
from embedding_export.architectures.registry import encode
from embedding_export.bundle import describe
from embedding_export.checkpoint.checkpoint import Checkpoint, load_checkpoint
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
    longest = checkpoint.max_seq_length
    encoder = Encoder(checkpoint.config, weights, checkpoint.normalize, dim, longest, sample)
    write_onnx(encoder, path, lambda _: None, row)
    return path


def write_with_outliers(folder: Path, precision: Precision) -> Path:
    """The graph's path; its checkpoint, a tiny stand-in with the trained model's outliers, lies beside it."""
    standin.write(folder / "tiny", standin.Options(outliers=True))
    return write(load_checkpoint(folder / "tiny"), folder, precision)


def texts_beside(graph: Path) -> list[Ids]:
    """Random ids of a few lengths for a graph that `write_with_outliers` wrote."""
    return texts(load_checkpoint(graph.parent / "tiny"), [1, 9, 60, 300])


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


def forward(config: Figures, weights: Weights, text: Ids, normalize: bool) -> Floats:
    """The same for any shape of model."""
    ids = torch.from_numpy(text[None])
    ops = TorchOps(config, weights, ids, torch.ones_like(ids))
    with torch.no_grad():
        _, vector = encode(ops, config, weights.dense, normalize)
    return np.asarray(vector[0].numpy(), np.float32)


def with_local(config: Figures, **changes: Any) -> Figures:
    """Other local layers."""
    return replace(config, local_layer=replace(config.local_layer, **changes))


def with_key_heads(config: Figures, weights: Weights, count: int) -> tuple[Figures, Weights]:
    """So many key heads in every layer, and random key and value matrices for them."""
    rng = np.random.default_rng(count)
    shape = (count * config.local_layer.head_dim, config.hidden_size)
    config = with_local(config, kv_heads=count)
    config = replace(config, global_layer=replace(config.global_layer, kv_heads=count))
    tensors = dict(weights.tensors)
    for name in [n for n in tensors if ".k_proj." in n or ".v_proj." in n]:
        tensors[name] = ArrayWeight(rng.standard_normal(shape).astype(np.float32) / np.float32(8))
    return config, Weights(tensors, weights.dense)
