"""Writes one ONNX graph of the encoder: dynamic batch and length, weights streamed to external data.

Knows nothing of bundles or manifests; `pipeline` places and records the files.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from onnx import TensorProto, helper

from embedding_export.checkpoint import EncoderConfig
from embedding_export.encoder import encode
from embedding_export.folding import Weights
from embedding_export.onnx_graph import OnnxGraph
from embedding_export.onnx_ops import MICROSOFT, OnnxOps

# Gelu's tanh form came with opset 20, which ONNX Runtime reads since 1.17.
OPSET = 20
ENGINE_MIN_VERSION = "1.17.0"
INPUTS = ("input_ids", "attention_mask")
SEQUENCE = ("batch", "sequence")
OUTPUTS = ("last_hidden_state", "sentence_embedding")


@dataclass(frozen=True)
class Encoder:
    """What every format is built from."""

    config: EncoderConfig
    weights: Weights
    normalize: bool
    embedding_dim: int


def write_onnx(encoder: Encoder, path: Path, progress: Callable[[int], None]) -> Path:
    """Write `path` and its external data beside it, and return the latter's path.

    Inputs `input_ids` and `attention_mask`, int64 [batch, sequence], padded on the right; outputs
    `last_hidden_state`, float32 [batch, sequence, hidden], and `sentence_embedding`, float32 [batch, dim].
    """
    data_path = path.with_name(path.name + "_data")
    with data_path.open("wb") as data:
        graph = OnnxGraph(data, data_path.name, progress)
        ops = OnnxOps(graph, encoder.config, encoder.weights)
        ops.finish(*encode(ops, encoder.config, encoder.weights.dense, encoder.normalize))
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, list(SEQUENCE)) for n in INPUTS]
    shapes: tuple[list[str | int | None], ...] = (
        ["batch", "sequence", encoder.config.hidden_size],
        ["batch", encoder.embedding_dim],
    )
    outputs = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip(OUTPUTS, shapes, strict=True)
    ]
    graph.write(path, inputs, outputs, {"": OPSET, MICROSOFT: 1})
    return data_path
