"""Reads the weights of a written graph, in either format, as a checkpoint would hold them.

It only picks the reader for the file; `audit` says what the weights should be.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from embedding_export.architectures.interface.ops import DenseStage
from embedding_export.architectures.registry import tensor_specs
from embedding_export.audit.read_eight_bits import read_input_factors, straight
from embedding_export.checkpoint.checkpoint import Checkpoint
from embedding_export.weights.folding import ArrayWeight, Weight, Weights
from embedding_export.weights.stored import StoredWeight


def read_graph(path: Path) -> dict[str, StoredWeight]:
    """Every weight of an ONNX or LiteRT file by canonical name.

    Raises:
        AuditError: a LiteRT file whose signatures differ in their weights.
    """
    if path.suffix == ".tflite":
        from embedding_export.litert.reader import read_litert  # needs ai-edge-litert

        return read_litert(path)
    from embedding_export.onnx.reader import read_stored  # needs onnx, which a LiteRT export does without

    return read_stored(path)


def dequantized(path: Path, checkpoint: Checkpoint) -> Weights:
    """The graph's own weights, float32, readable like a checkpoint's tensors.

    The reference with these weights must reproduce the graph. Rotations are undone, and so are the factors by
    which the graph multiplies a matrix's inputs. The Dense stages are the stored ones, folded or not.
    """
    stored, specs = read_graph(path), tensor_specs(checkpoint.config)
    tensors: dict[str, Weight] = {}
    for name, weight in stored.items():
        if name in specs and specs[name].role == "gain":
            gain = weight.array() / np.float32(specs[name].scale)
            tensors[name] = ArrayWeight(np.asarray(gain, np.float32))
        elif f"{name}:inputs" in stored:
            tensors[name] = ArrayWeight(weight.array() * read_input_factors(stored, name))
        elif not name.endswith(":inputs"):
            tensors[name] = ArrayWeight(straight(weight.array(), weight.turned)) if weight.turned else weight
    return Weights(tensors, _stages(stored, checkpoint))


def _stages(stored: Mapping[str, StoredWeight], checkpoint: Checkpoint) -> tuple[DenseStage, ...]:
    """The checkpoint's stages that the graph stores: without those folded into their successors."""
    if all(s.weight in stored for s in checkpoint.dense):
        return checkpoint.dense
    last = len(checkpoint.dense) - 1
    ends = [s for i, s in enumerate(checkpoint.dense) if s.activation != "identity" or i == last]
    return tuple(
        replace(
            stage,
            weight=f"dense.{j}.weight",
            bias=f"dense.{j}.bias" if f"dense.{j}.bias" in stored else None,
            in_features=stored[f"dense.{j}.weight"].shape[1],
        )
        for j, stage in enumerate(ends)
        if f"dense.{j}.weight" in stored
    )
