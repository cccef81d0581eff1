"""The forward pass in ONNX and in torch agree, for shapes the reference is too slow or too narrow to try."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import written
from numpy.typing import NDArray

from embedding_export.architectures.interface.figures import Figures
from embedding_export.architectures.interface.ops import DenseStage
from embedding_export.architectures.interface.rope import rope_tables
from embedding_export.architectures.registry import encode
from embedding_export.checkpoint.checkpoint import Checkpoint, load_checkpoint
from embedding_export.onnx.ops import BLOCK_LOCAL_ABOVE
from embedding_export.onnx.writer import write_onnx
from embedding_export.weights.encoder import Encoder
from embedding_export.weights.folding import ArrayWeight, Weight, Weights, as_stored, folded
from embedding_runtime.engines.onnx_session import OnnxSession
from embedding_validate.forward.torch_ops import TorchOps

Array = NDArray[np.int64]
Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(tiny_checkpoint)


def _session(config: Figures, weights: Weights, folder: Path, longest: int = 2048) -> OnnxSession:
    path = folder / "model.onnx"
    dim = weights.dense[-1].out_features if weights.dense else config.hidden_size
    write_onnx(Encoder(config, weights, True, dim, longest), path, lambda _: None)
    return OnnxSession(path, 1)


def _batch(config: Figures, lengths: list[int]) -> tuple[Array, Array]:
    """Random ids, right-padded; the mask says where they end."""
    rng = np.random.default_rng(sum(lengths))
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    return rng.integers(5, config.vocab_size, mask.shape) * mask, mask


def _torch(config: Figures, weights: Weights, ids: Array, mask: Array) -> tuple[Floats, ...]:
    ops = TorchOps(config, weights, torch.from_numpy(ids), torch.from_numpy(mask))
    with torch.no_grad():
        return tuple(t.numpy() for t in encode(ops, config, weights.dense, True))


B = BLOCK_LOCAL_ABOVE
LENGTHS = [[1], [2], [9, 1], [17, 30, 8], [B], [B + 1], [B + 1, 3], [700, B, 640], [1023, 1024], [2048, 5]]


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_onnx_equals_torch(checkpoint: Checkpoint, lengths: list[int], tmp_path: Path) -> None:
    """Both sides of the switch to block-local attention, padded and not."""
    session = _session(checkpoint.config, folded(checkpoint), tmp_path)
    ids, mask = _batch(checkpoint.config, lengths)
    hidden, vectors = session.run(ids, mask, ("last_hidden_state", "sentence_embedding"))
    expected_hidden, expected = _torch(checkpoint.config, as_stored(checkpoint), ids, mask)
    assert hidden.shape == expected_hidden.shape
    # Outliers in the stream cost float32 sums digits, on each kind of CPU others: 1e-4 was seen.
    assert np.abs((hidden - expected_hidden) * mask[:, :, None]).max() < 5e-4
    np.testing.assert_allclose(vectors, expected, atol=2e-6)


@pytest.mark.parametrize("window", [1, 3, 200, 600, 5000])
def test_any_window(checkpoint: Checkpoint, window: int, tmp_path: Path) -> None:
    config = written.with_local(checkpoint.config, window=window)
    session = _session(config, folded(checkpoint), tmp_path)
    ids, mask = _batch(config, [900, 530])
    (vectors,) = session.run(ids, mask, ("sentence_embedding",))
    np.testing.assert_allclose(vectors, _torch(config, as_stored(checkpoint), ids, mask)[1], atol=2e-6)


@pytest.mark.parametrize("heads", [2, 4])
def test_several_key_heads(checkpoint: Checkpoint, heads: int, tmp_path: Path) -> None:
    """Other Gemma 3 sizes share a key head among fewer queries."""
    config, weights = written.with_key_heads(checkpoint.config, folded(checkpoint), heads)
    session = _session(config, weights, tmp_path)
    for lengths in ([20, 7], [600, 520]):
        ids, mask = _batch(config, lengths)
        (vectors,) = session.run(ids, mask, ("sentence_embedding",))
        np.testing.assert_allclose(vectors, _torch(config, weights, ids, mask)[1], atol=2e-6)


def test_padding_never_changes_a_vector(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Whatever stands in the padded places, and however much of it."""
    session = _session(checkpoint.config, folded(checkpoint), tmp_path)
    ids, mask = _batch(checkpoint.config, [12])
    (alone,) = session.run(ids, mask, ("sentence_embedding",))
    for width, filler in ((13, 0), (40, 7), (600, 9)):
        wide = np.full((1, width), filler, np.int64)
        wide[:, :12] = ids
        wide_mask = np.zeros_like(wide)
        wide_mask[:, :12] = 1
        (padded,) = session.run(wide, wide_mask, ("sentence_embedding",))
        np.testing.assert_allclose(padded, alone, atol=2e-6)


def test_inputs_and_outputs_are_those_other_clients_expect(checkpoint: Checkpoint, tmp_path: Path) -> None:
    _session(checkpoint.config, folded(checkpoint), tmp_path)
    graph = onnx.load(str(tmp_path / "model.onnx"), load_external_data=False).graph
    assert [i.name for i in graph.input] == ["input_ids", "attention_mask"]
    assert [o.name for o in graph.output] == ["last_hidden_state", "sentence_embedding"]
    assert {i.type.tensor_type.elem_type for i in graph.input} == {onnx.TensorProto.INT64}


DENSE_CASES = {
    "two": [("identity", False), ("identity", False)],
    "biases": [("identity", True), ("identity", True)],
    "tanh first": [("tanh", True), ("identity", False)],
    "tanh last": [("identity", True), ("tanh", True)],
    "one": [("identity", True)],
    "none": [],
}


@pytest.mark.parametrize("case", DENSE_CASES)
def test_folding_keeps_the_function(checkpoint: Checkpoint, case: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    tensors: dict[str, Weight] = {n: t for n, t in checkpoint.tensors.items() if not n.startswith("dense.")}
    stages: list[DenseStage] = []
    size = checkpoint.config.hidden_size
    for j, (activation, bias) in enumerate(DENSE_CASES[case]):
        out = (48, 32)[j]
        tensors[f"dense.{j}.weight"] = ArrayWeight(
            rng.standard_normal((out, size)).astype(np.float32) / np.float32(8)
        )
        if bias:
            tensors[f"dense.{j}.bias"] = ArrayWeight(rng.standard_normal(out).astype(np.float32))
        name = f"dense.{j}.bias" if bias else None
        stages.append(DenseStage(f"dense.{j}.weight", name, activation, size, out))  # type: ignore[arg-type]
        size = out
    tuned = dataclasses.replace(checkpoint, tensors=tensors, dense=tuple(stages))  # type: ignore[arg-type]
    ids, mask = _batch(tuned.config, [11])
    (vectors,) = _session(tuned.config, folded(tuned), tmp_path).run(ids, mask, ("sentence_embedding",))
    np.testing.assert_allclose(vectors, _torch(tuned.config, as_stored(tuned), ids, mask)[1], atol=2e-6)
    linear_runs = 1 + sum(a == "tanh" for a, _ in DENSE_CASES[case][:-1]) if stages else 0
    assert len(folded(tuned).dense) == linear_runs


def test_rope_tables_follow_the_formula() -> None:
    cos, sin = rope_tables(10_000.0, 8, 3)
    angle = 2 * 10_000.0 ** (-2 / 8)
    assert cos.shape == sin.shape == (3, 4)
    np.testing.assert_allclose((cos[2, 1], sin[2, 1]), (np.cos(angle), np.sin(angle)), rtol=1e-6)
