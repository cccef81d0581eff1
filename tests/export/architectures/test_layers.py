"""Layers of different shapes in one model, and rotations for as many positions as texts have tokens."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import written
from numpy.typing import NDArray

from embedding_export.architectures.interface.figures import Figures
from embedding_export.architectures.registry import tensor_specs
from embedding_export.checkpoint.checkpoint import Checkpoint, load_checkpoint
from embedding_export.litert.ops import Lengths
from embedding_export.litert.writer import write_litert
from embedding_export.onnx.writer import write_onnx
from embedding_export.weights.encoder import Encoder
from embedding_export.weights.folding import ArrayWeight, Weights, folded
from embedding_export.weights.precisions import LITERT, PRECISIONS
from embedding_runtime.bundle import Precision
from embedding_runtime.engines.onnx_session import OnnxSession

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(tiny_checkpoint)


@pytest.fixture(scope="module")
def mixed(checkpoint: Checkpoint) -> tuple[Figures, Weights]:
    """Local layers with two key heads of 16, global ones with one of twice the width."""
    config = written.with_local(checkpoint.config, kv_heads=2)
    wide = dataclasses.replace(config.global_layer, head_dim=2 * config.local_layer.head_dim)
    config = dataclasses.replace(config, global_layer=wide)
    rng, weights = np.random.default_rng(0), folded(checkpoint)
    tensors = dict(weights.tensors)
    for name, spec in tensor_specs(config).items():
        if tensors[name].shape != spec.shape:
            values = rng.standard_normal(spec.shape) / 8 if spec.role == "matrix" else np.ones(spec.shape)
            tensors[name] = ArrayWeight(values.astype(np.float32))
    assert {len(t.shape) for n, t in tensors.items() if t is not weights.tensors[n]} == {1, 2}
    return config, Weights(tensors, weights.dense)


def _encoder(config: Figures, weights: Weights, longest: int) -> Encoder:
    dim = weights.dense[-1].out_features
    return Encoder(config, weights, True, dim, longest, (tuple(range(5, 55)),))


@pytest.mark.parametrize(("precision", "least"), [("fp32", 1 - 1e-6), ("int8", 0.995)])
def test_onnx(
    mixed: tuple[Figures, Weights], checkpoint: Checkpoint, precision: Precision, least: float, tmp_path: Path
) -> None:
    config, weights = mixed
    path = tmp_path / "model.onnx"
    write_onnx(_encoder(config, weights, 2048), path, lambda _: None, PRECISIONS[precision])
    for text in written.texts(checkpoint, [3, 40, 600]):
        expected = written.forward(config, weights, text, True)
        assert float(written.run(path, [text])[0] @ expected) > least


@pytest.mark.parametrize(("precision", "least"), [("fp32", 1 - 1e-6), ("int8", 0.995)])
def test_litert(
    mixed: tuple[Figures, Weights], checkpoint: Checkpoint, precision: Precision, least: float, tmp_path: Path
) -> None:
    from embedding_runtime.engines.litert_session import LitertSession

    config, weights = mixed
    path, buckets = tmp_path / "model.tflite", (40, 640)
    lengths = [Lengths(b, buckets[-1], 0) for b in buckets]
    write_litert(_encoder(config, weights, 640), path, LITERT[precision], lengths, lambda _: None)
    session = LitertSession(path, 1, 0)
    for text in written.texts(checkpoint, [3, 40, 600]):
        (found,) = session.run(text[None], np.ones((1, len(text)), np.int64), ("sentence_embedding",))
        assert float(found[0] @ written.forward(config, weights, text, True)) > least


@pytest.mark.parametrize(("longest", "rows"), [(100, 100), (512, 512), (513, 640), (600, 640)])
def test_rotations_end_where_texts_do(
    checkpoint: Checkpoint, longest: int, rows: int, tmp_path: Path
) -> None:
    """Whatever the encoder's positions are: beyond 512 tokens texts are filled up to whole blocks."""
    far = dataclasses.replace(checkpoint.config, max_position_embeddings=131_072)
    path = tmp_path / "model.onnx"
    for precision in ("fp32", "int8"):
        row = PRECISIONS[precision]
        write_onnx(_encoder(far, folded(checkpoint), longest), path, lambda _: None, row)
        graph = onnx.load(str(path), load_external_data=False).graph
        sizes = {t.name: list(t.dims) for t in graph.initializer}
        tables = {n for node in graph.node if node.op_type == "RotaryEmbedding" for n in node.input[2:]}
        assert {sizes[n][0] for n in tables} == {rows}
        (text,) = written.texts(checkpoint, [longest])
        session = OnnxSession(path, 1)
        (found,) = session.run(text[None], np.ones((1, longest), np.int64), ("sentence_embedding",))
        assert float(found[0] @ written.forward(far, folded(checkpoint), text, True)) > 0.99
