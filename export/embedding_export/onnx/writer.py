"""Writes one ONNX graph of the encoder: dynamic batch and length, weights streamed to external data.

`bundle.graphs` places the files and records them in the manifest.
"""

from collections.abc import Callable
from pathlib import Path

from onnx import TensorProto, helper

from embedding_export.architectures.registry import encode, tensor_specs
from embedding_export.onnx.graph import MICROSOFT, OnnxGraph
from embedding_export.onnx.int4 import Int4
from embedding_export.onnx.int8 import Int8Ops
from embedding_export.onnx.ops import OnnxOps
from embedding_export.onnx.scores import Int8Scores
from embedding_export.onnx.storage import Float16, Float32
from embedding_export.weights.balancing import balance_heads
from embedding_export.weights.encoder import Encoder
from embedding_export.weights.precisions import PRECISIONS, PrecisionRow, matrix_parts

INPUTS = ("input_ids", "attention_mask")
SEQUENCE = ("batch", "sequence")
OUTPUTS = ("last_hidden_state", "sentence_embedding")


def write_onnx(
    encoder: Encoder, path: Path, progress: Callable[[int], None], row: PrecisionRow = PRECISIONS["fp32"]
) -> Path:
    """Write `path` and its external data beside it, in the formats of `row`, and return the data's path.

    Inputs `input_ids` and `attention_mask`, int64 [batch, sequence], padded on the right (where the
    encoder leaves prompts out of the mean, a prompt's tokens have 2 in the mask); outputs
    `last_hidden_state`, float32 [batch, sequence, hidden], and `sentence_embedding`, float32 [batch, dim].
    """
    data_path = path.with_name(path.name + "_data")
    with data_path.open("wb") as data:
        graph = OnnxGraph(data, data_path.name, progress)
        _emit(encoder, graph, row)
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, list(SEQUENCE)) for n in INPUTS]
    shapes: tuple[list[str | int | None], ...] = (
        ["batch", "sequence", encoder.config.output_size],
        ["batch", encoder.embedding_dim],
    )
    outputs = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip(OUTPUTS, shapes, strict=True)
    ]
    graph.write(path, inputs, outputs, {"": row.opset, MICROSOFT: 1})
    return data_path


def _emit(encoder: Encoder, graph: OnnxGraph, row: PrecisionRow) -> None:
    config, weights = encoder.config, encoder.weights
    if row.storage == "int8":
        seen = encoder.matrices() if row.table == "int4" else None
        table = Int4(graph, weights, seen) if row.table else None
        parts = matrix_parts(tensor_specs(config))
        four_bits = [name for part in row.four_bits for name in parts.get(part, ())]
        int8 = Int8Ops(graph, encoder, table, four_bits)
        int8.finish(*encode(int8, config, weights.dense, encoder.normalize))
        return
    if row.storage == "q4_0":
        activations = encoder.matrices().seen
        heads = balance_heads(config, activations)
        storage = Int4(graph, weights, None)
        ops = OnnxOps(graph, encoder, storage, Int8Scores(graph, activations, heads), heads)
    else:
        plain = Float16(graph, weights) if row.storage == "float16" else Float32(graph, weights)
        ops = OnnxOps(graph, encoder, plain)
    ops.finish(*encode(ops, config, weights.dense, encoder.normalize))
