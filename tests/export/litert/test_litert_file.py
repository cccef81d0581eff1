"""LiteRT files give torch's vectors in every bucket, hold each weight once, and leave XNNPACK one piece."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import planted
import pytest
import written
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from embedding_export.architectures.interface.figures import Figures
from embedding_export.audit.audit import audit_graph
from embedding_export.audit.dequantized import dequantized
from embedding_export.checkpoint.checkpoint import Checkpoint, load_checkpoint
from embedding_export.errors import AuditError, ExportError
from embedding_export.litert.ops import CHUNK, Lengths
from embedding_export.litert.writer import check_buckets, write_litert
from embedding_export.weights import quantize
from embedding_export.weights.encoder import Encoder
from embedding_export.weights.folding import ArrayWeight, Weights, as_stored, folded
from embedding_export.weights.precisions import LITERT
from embedding_runtime.bundle import Precision

Floats = NDArray[np.float32]
# Local attention is cut into blocks here, and not at 512.
LONG = 6 * CHUNK


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(tiny_checkpoint)


def _write(
    config: Figures,
    weights: Weights,
    path: Path,
    buckets: Sequence[int],
    precision: Precision = "fp32",
    normalize: bool = True,
) -> Path:
    dim = weights.dense[-1].out_features if weights.dense else config.hidden_size
    encoder = Encoder(config, weights, normalize, dim, max(buckets), (tuple(range(5, 55)),))
    lengths = [Lengths(b, max(buckets), 0) for b in buckets]
    write_litert(encoder, path, LITERT[precision], lengths, lambda _: None)
    return path


def _vectors(path: Path, bucket: int, texts: Sequence[NDArray[np.int64]]) -> Floats:
    """What the engine's plain interpreter gives in one bucket."""
    run = Interpreter(model_path=str(path), num_threads=1).get_signature_runner(f"embed_{bucket}")
    rows = [np.pad(t, (0, bucket - len(t))).astype(np.int32)[None] for t in texts]
    return np.concatenate([run(tokens=r)["sentence_embedding"] for r in rows])


def _expected(
    config: Figures, weights: Weights, texts: Sequence[NDArray[np.int64]], normalize: bool = True
) -> Floats:
    return np.stack([written.forward(config, weights, text, normalize) for text in texts])


@pytest.mark.parametrize("bucket", [2, 16, 257, 300, 512, LONG, 1000, 1024, 2048])
def test_every_bucket_equals_torch(checkpoint: Checkpoint, bucket: int, tmp_path: Path) -> None:
    """Beside a longer bucket, and with texts that leave padding."""
    path = _write(checkpoint.config, folded(checkpoint), tmp_path / "m.tflite", sorted({bucket, 2048}))
    texts = written.texts(checkpoint, sorted({2, min(3, bucket), max(2, bucket // 2), bucket}))
    expected = _expected(checkpoint.config, as_stored(checkpoint), texts)
    np.testing.assert_allclose(_vectors(path, bucket, texts), expected, atol=2e-6)


@pytest.mark.parametrize("window", [1, 3, CHUNK, CHUNK + 1, 256, 600, 5000])
@pytest.mark.parametrize("bucket", [40, LONG])
def test_any_window(checkpoint: Checkpoint, window: int, bucket: int, tmp_path: Path) -> None:
    config = written.with_local(checkpoint.config, window=window)
    path = _write(config, folded(checkpoint), tmp_path / "m.tflite", [bucket])
    texts = written.texts(checkpoint, [bucket - 7, bucket])
    expected = _expected(config, as_stored(checkpoint), texts)
    np.testing.assert_allclose(_vectors(path, bucket, texts), expected, atol=2e-6)


@pytest.mark.parametrize("heads", [2, 4])
@pytest.mark.parametrize("bucket", [40, LONG])
def test_several_key_heads(checkpoint: Checkpoint, heads: int, bucket: int, tmp_path: Path) -> None:
    config, weights = written.with_key_heads(checkpoint.config, folded(checkpoint), heads)
    texts = written.texts(checkpoint, [bucket - 5, bucket])
    path = _write(config, weights, tmp_path / "m.tflite", [bucket])
    np.testing.assert_allclose(_vectors(path, bucket, texts), _expected(config, weights, texts), atol=2e-6)


def test_dense_with_bias_and_tanh_and_no_normalize(checkpoint: Checkpoint, tmp_path: Path) -> None:
    first, *_ = checkpoint.dense
    stage = dataclasses.replace(first, bias="dense.0.bias", activation="tanh")
    bias = np.linspace(-1, 1, first.out_features, dtype=np.float32)
    tensors = {n: t for n, t in checkpoint.tensors.items() if not n.startswith("dense.1")}
    weights = Weights({**tensors, "dense.0.bias": ArrayWeight(bias)}, (stage,))
    path = _write(checkpoint.config, weights, tmp_path / "m.tflite", [16], normalize=False)
    texts = written.texts(checkpoint, [9])
    expected = _expected(checkpoint.config, weights, texts, normalize=False)
    np.testing.assert_allclose(_vectors(path, 16, texts), expected, atol=2e-5)


@pytest.mark.parametrize("precision", LITERT)
@pytest.mark.parametrize("buckets", [[8], [512], [LONG], [8, LONG], [512, LONG], [LONG, 2048]])
def test_xnnpack_takes_all_behind_the_lookup(
    checkpoint: Checkpoint, precision: Precision, buckets: list[int], tmp_path: Path
) -> None:
    """One DELEGATE node, from the looked-up rows and the mask to the vector, in the first bucket.

    Alone, and beside a longer one, of which it takes what it needs of shared tables.
    """
    path = _write(checkpoint.config, folded(checkpoint), tmp_path / "m.tflite", buckets, precision)
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    nodes: list[dict[str, Any]] = interpreter._get_ops_details()
    delegates = [n for n in nodes if n["op_name"] == "DELEGATE"]
    lookups = [n for n in nodes if n["op_name"] == "EMBEDDING_LOOKUP"]
    (mask,) = [n for n in nodes if n["op_name"] == "CAST"]
    assert len(delegates) == 1
    taken = set(delegates[0]["inputs"].tolist())
    assert {int(n["outputs"][0]) for n in (*lookups, mask)} <= taken
    assert delegates[0]["outputs"].tolist() == [interpreter.get_output_details()[0]["index"]]


@pytest.mark.parametrize(
    ("precision", "least"), [("int8", 0.995), ("int8_q4", 0.9), ("mixed", 0.5), ("int4", 0.5)]
)
def test_quantized_files_compute_with_what_they_store(
    checkpoint: Checkpoint, precision: Precision, least: float, tmp_path: Path
) -> None:
    """Against torch on the file's own weights only the activations' rounding is left."""
    path = _write(checkpoint.config, folded(checkpoint), tmp_path / "m.tflite", [32], precision)
    assert audit_graph(path, checkpoint) == 68
    texts = written.texts(checkpoint, [5, 20, 32])
    found = _vectors(path, 32, texts)
    own = _expected(checkpoint.config, dequantized(path, checkpoint), texts)
    assert (found * own).sum(axis=1).min() > 0.99
    right = _expected(checkpoint.config, as_stored(checkpoint), texts)
    assert (found * right).sum(axis=1).min() > least


def test_buckets_share_their_weights(checkpoint: Checkpoint, tmp_path: Path) -> None:
    weights = folded(checkpoint)
    one = _write(checkpoint.config, weights, tmp_path / "one.tflite", [64], "int8").stat().st_size
    many = _write(checkpoint.config, weights, tmp_path / "many.tflite", [8, 16, 32, 48, 64], "int8")
    table = checkpoint.config.vocab_size * checkpoint.config.hidden_size
    assert one > table
    per_bucket = (many.stat().st_size - one) / 4
    assert per_bucket < table / 2  # operators and names; not the table, nor its scales
    model = schema.Model.GetRootAs(many.read_bytes())
    assert model.SubgraphsLength() == 5


@pytest.mark.parametrize(
    ("precision", "versions"),
    [("int8", {4, 12}), ("int8_q4", {5, 12}), ("int4", {5, 14}), ("mixed", {5, 12, 14})],
)
def test_old_runtimes_refuse_blocks_of_four_bits(
    checkpoint: Checkpoint, precision: Precision, versions: set[int], tmp_path: Path
) -> None:
    """Those before 2.1.6 misread them silently; what they lack is the operators' versions stamped here."""
    path = _write(checkpoint.config, folded(checkpoint), tmp_path / "m.tflite", [8], precision)
    model = schema.Model.GetRootAs(path.read_bytes())
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    weighty = (schema.BuiltinOperator.EMBEDDING_LOOKUP, schema.BuiltinOperator.FULLY_CONNECTED)
    # Version 1 is that of the lookup of an int8 table's float32 scales, 6 that of float32 products.
    assert {c.Version() for c in codes if c.BuiltinCode() in weighty} - {1, 6} == versions


def test_weights_are_aligned(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = _write(checkpoint.config, folded(checkpoint), tmp_path / "m.tflite", [8], "int4")
    data = path.read_bytes()
    base = np.frombuffer(data, np.uint8).ctypes.data
    model = schema.Model.GetRootAs(data)
    stored = [model.Buffers(i).DataAsNumpy() for i in range(model.BuffersLength())]
    places = [b.ctypes.data - base for b in stored if isinstance(b, np.ndarray)]
    assert len(places) > 60
    assert not any(place % 64 for place in places)


def _first_tensor(path: Path, name: str) -> Any:
    model = schema.Model.GetRootAs(bytearray(path.read_bytes()))
    graph = model.Subgraphs(0)
    tensors = [graph.Tensors(i) for i in range(graph.TensorsLength())]
    return model, next(t for t in tensors if t.Name().decode() == name)


@pytest.mark.parametrize("precision", LITERT)
@pytest.mark.parametrize("name", ["embed_tokens.weight", "layers.1.mlp.up_proj.weight", "dense.0.weight"])
def test_the_audit_sees_a_changed_byte(
    checkpoint: Checkpoint, precision: Precision, name: str, tmp_path: Path
) -> None:
    path = _write(checkpoint.config, folded(checkpoint), tmp_path / "m.tflite", [8, 16], precision)
    model, tensor = _first_tensor(path, name)
    stored = model.Buffers(tensor.Buffer()).DataAsNumpy()
    stored[len(stored) // 2 + 3] ^= 0x40
    path.write_bytes(model._tab.Bytes)
    with pytest.raises(AuditError, match=name):
        audit_graph(path, checkpoint)


@pytest.mark.parametrize("name", ["layers.0.self_attn.q_proj.weight", "embed_tokens.weight"])
def test_the_audit_sees_scales_of_two_rows_swapped(checkpoint: Checkpoint, name: str, tmp_path: Path) -> None:
    path = _write(checkpoint.config, folded(checkpoint), tmp_path / "m.tflite", [8], "int8")
    model, tensor = _first_tensor(path, name)
    if name.startswith("embed"):
        model, tensor = _first_tensor(path, f"{name}:scale")
        scales = model.Buffers(tensor.Buffer()).DataAsNumpy().view(np.float32)
    else:
        scales = tensor.Quantization().ScaleAsNumpy()
    scales[[0, 1]] = scales[[1, 0]]
    path.write_bytes(model._tab.Bytes)
    with pytest.raises(AuditError, match=name):
        audit_graph(path, checkpoint)


@pytest.mark.parametrize("fault", planted.LITERT_FAULTS)
def test_a_planted_fault_is_refused(
    checkpoint: Checkpoint, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precision, plant = planted.LITERT_FAULTS[fault]
    plant(monkeypatch)
    path = _write(checkpoint.config, folded(checkpoint), tmp_path / "m.tflite", [8], precision)
    with pytest.raises(AuditError, match="steps of its scale"):
        audit_graph(path, checkpoint)


def test_the_audit_sees_a_signature_with_weights_of_its_own(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = _write(checkpoint.config, folded(checkpoint), tmp_path / "m.tflite", [8, 16])
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes())
    name = b"layers.0.mlp.down_proj.weight"
    tensor = next(t for t in model.subgraphs[1].tensors if t.name == name)
    other = np.array(model.buffers[tensor.buffer].data)
    other[3] ^= 1
    model.buffers.append(schema.BufferT(data=other))
    tensor.buffer = len(model.buffers) - 1
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    with pytest.raises(AuditError, match="different tensors under the name"):
        audit_graph(path, checkpoint)


def test_four_bits_without_zero_points() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((64, 256)).astype(np.float32)
    values[3, :32] = 0
    found = quantize.int4_symmetric(values, 32)
    assert found.codes.min() >= -8 and found.codes.max() <= 7
    assert found.scales.dtype == np.float16 and (found.scales > 0).all()
    # Engines round them to bfloat16: what is stored is what is computed with.
    assert not (found.scales.astype(np.float32).view(np.uint32) & 0xFFFF).any()
    restored = found.codes * np.repeat(found.scales.astype(np.float32), 32, axis=1)
    assert not restored[3, :32].any()
    plain = np.maximum(np.abs(values.reshape(-1, 32)).max(axis=1, keepdims=True) / 7, 1e-9)
    naive = np.clip(np.rint(values.reshape(-1, 32) / plain), -8, 7) * plain
    assert np.square(restored - values).sum() < 0.95 * np.square(naive.reshape(values.shape) - values).sum()


@pytest.mark.parametrize(
    ("asked", "found"),
    [((64, 32, 64), (32, 64)), ((32, 2048, 4096), (32, 1024)), ((640,), (640,))],
)
def test_buckets_are_sorted_and_end_with_the_model(asked: tuple[int, ...], found: tuple[int, ...]) -> None:
    assert check_buckets(asked, 1024) == found


@pytest.mark.parametrize("asked", [(1,), (0, 32), (-5,), ()])
def test_buckets_that_cannot_be(asked: tuple[int, ...]) -> None:
    with pytest.raises(ExportError, match="bucket"):
        check_buckets(asked, 2048)


def test_a_file_too_large_for_its_format(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embedding_export.litert import file as litert_file

    monkeypatch.setattr(litert_file, "LARGEST_FILE", 1_000_000)
    with pytest.raises(ExportError, match=r"a LiteRT file holds at most 0\.00 GB"):
        _write(checkpoint.config, folded(checkpoint), tmp_path / "m.tflite", [8])
    assert list(tmp_path.iterdir()) == []
