"""Quantized graphs against the reference on their own weights, and against themselves in company."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import standin
import written

from embedding_export.audit.dequantized import dequantized
from embedding_export.checkpoint.checkpoint import Checkpoint, load_checkpoint
from embedding_export.onnx.int8 import Int8, Int8Ops, Scaled
from embedding_export.onnx.ops import BLOCK_LOCAL_ABOVE
from embedding_export.weights.folding import as_stored
from embedding_export.weights.precisions import PRECISIONS
from embedding_runtime.bundle import Precision

Patch = pytest.MonkeyPatch

# Cosine to the reference on the graph's own weights: what remains is the rounding of activations.
EXECUTION: dict[Precision, float] = {
    "fp32": 0.999999,
    "fp16": 0.999999,
    "int8": 0.985,
    "int8_q4": 0.985,
    "int4": 0.99,
}
LENGTHS = [1, 2, 9, 33, 100, BLOCK_LOCAL_ABOVE + 88]


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(tiny_checkpoint)


def _execution(checkpoint: Checkpoint, path: Path, lengths: list[int]) -> float:
    """The smallest cosine to the reference on the graph's dequantized weights."""
    weights = dequantized(path, checkpoint)
    found = [
        float(written.run(path, [t])[0] @ written.reference(checkpoint, weights, t))
        for t in written.texts(checkpoint, lengths)
    ]
    return min(found)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_execution(checkpoint: Checkpoint, precision: Precision, tmp_path: Path) -> None:
    path = written.write(checkpoint, tmp_path, precision)
    assert _execution(checkpoint, path, LENGTHS) > EXECUTION[precision]


def test_execution_of_q4_0(checkpoint: Checkpoint, tmp_path: Path) -> None:
    trained = replace(checkpoint, source=replace(checkpoint.source, qat="q4_0"))
    path = written.write(trained, tmp_path, "int4")
    assert _execution(trained, path, LENGTHS) > EXECUTION["int4"]


def test_fp16_loses_next_to_nothing(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = written.write(checkpoint, tmp_path, "fp16")
    for text in written.texts(checkpoint, LENGTHS):
        expected = written.reference(checkpoint, as_stored(checkpoint), text)
        assert float(written.run(path, [text])[0] @ expected) > 0.9999


def test_a_missing_zero_point_is_seen(checkpoint: Checkpoint, tmp_path: Path, monkeypatch: Patch) -> None:
    """No weight is wrong then: only the execution check can tell."""
    true = Int8.product

    def product(self: Any, codes: str, weight: str) -> str:
        out = true(self, codes, weight)
        if "down_proj" in weight:
            self._g._nodes[-1].input[4] = ""
        return out

    monkeypatch.setattr(Int8, "product", product)
    path = written.write(checkpoint, tmp_path, "int8")
    assert _execution(checkpoint, path, LENGTHS) < 0.9


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Two layers with heads and window of the real size: how engines cut up sums depends on them."""
    folder = tmp_path_factory.mktemp("wide") / "wide"
    shape = replace(standin.SHAPES["tiny"], heads=3, head_dim=256, layers=(False, True), sliding_window=512)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(standin.SHAPES, "tiny", shape)
        standin.write(folder, standin.Options())
    return load_checkpoint(folder)


@pytest.mark.parametrize("precision", ["int8", "int8_q4", "int4"])
def test_a_text_does_not_know_its_company(wide: Checkpoint, precision: Precision, tmp_path: Path) -> None:
    """The hidden states, of short texts and long ones, alone, padded and in a batch, bit by bit."""
    path = written.write(wide, tmp_path, precision)
    lengths = [1, 2, 5, 16, 17, 40, 64, 65, 129, 300, BLOCK_LOCAL_ABOVE, BLOCK_LOCAL_ABOVE + 1, 700]
    texts = written.texts(wide, lengths)
    batch = written.run(path, texts, output="last_hidden_state")
    for text, found in zip(texts, batch, strict=True):
        alone = written.run(path, [text], output="last_hidden_state")[0]
        np.testing.assert_array_equal(found[: len(text)], alone)
        padded = written.run(path, [text], len(text) + 37, output="last_hidden_state")[0]
        np.testing.assert_array_equal(padded[: len(text)], alone)


@pytest.mark.parametrize("precision", ["int8", "int8_q4", "int4"])
def test_a_vector_does_not_know_its_batch(wide: Checkpoint, precision: Precision, tmp_path: Path) -> None:
    """Bit by bit, the Dense stages too: one row and several are summed alike."""
    path = written.write(wide, tmp_path, precision)
    texts = written.texts(wide, [1, 2, 5, 16, 17, 40, 64, 65, 129])
    batch = written.run(path, texts)
    for i, text in enumerate(texts):
        np.testing.assert_array_equal(written.run(path, [text])[0], batch[i])
    np.testing.assert_array_equal(written.run(path, texts[2:5]), batch[2:5])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_company_of_any_length(checkpoint: Checkpoint, precision: Precision, tmp_path: Path) -> None:
    """Beyond BLOCK_LOCAL_ABOVE tokens attention is summed in another order."""
    path = written.write(checkpoint, tmp_path, precision)
    texts = written.texts(checkpoint, [3, 20, 100, 400, 700, 1100])
    alone = np.concatenate([written.run(path, [t]) for t in texts])
    assert (alone * written.run(path, texts)).sum(-1).min() > 0.9999


TINY_VALUES = {f"layers.{i}.self_attn.v_proj.weight": 1e-4 for i in range(5)}
TINY_PRODUCTS = {f"layers.{i}.mlp.up_proj.weight": 1e-4 for i in range(5)}
TINY_QUERIES = {f"layers.{i}.self_attn.{n}_proj.weight": 1e-4 for i in range(5) for n in "qk"}


@pytest.mark.parametrize("factors", [TINY_VALUES, TINY_PRODUCTS, TINY_QUERIES], ids=["v", "up", "qk"])
def test_epsilon_counts_as_in_the_reference(
    checkpoint: Checkpoint, factors: dict[str, float], tmp_path: Path
) -> None:
    """Rows far below the norm's epsilon, 1e-6 of a mean square: the reference damps them, and so must we."""
    tiny = _scaled(checkpoint, factors)
    path = written.write(tiny, tmp_path, "int8")
    assert _execution(tiny, path, [9, 33, 100]) > EXECUTION["int8"]


def test_epsilon_shows(checkpoint: Checkpoint, tmp_path: Path, monkeypatch: Patch) -> None:
    """The test above can fail: without the row scale the same rows are not damped."""
    true = Int8Ops.rms_norm
    monkeypatch.setattr(Int8Ops, "rms_norm", lambda self, x, w: true(self, Scaled(x.name), w))
    tiny = _scaled(checkpoint, TINY_VALUES)
    assert _execution(tiny, written.write(tiny, tmp_path, "int8"), [9, 33, 100]) < 0.9


def test_scales_cancel_in_head_norms_only_when_safe(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """A sound checkpoint saves the multiplication; tiny queries and keys do not."""
    counts = []
    for factors in ({}, TINY_QUERIES):
        path = written.write(_scaled(checkpoint, factors), tmp_path, "int8")
        counts.append(_nodes(path).count("Mul"))
    assert counts[1] == counts[0] + 10


def _scaled(checkpoint: Checkpoint, factors: dict[str, float]) -> Checkpoint:
    changed = {n: checkpoint.tensors[n].array() * np.float32(f) for n, f in factors.items()}
    return written.with_tensors(checkpoint, changed)


def _nodes(path: Path) -> list[str]:
    import onnx

    return [n.op_type for n in onnx.load(str(path), load_external_data=False).graph.node]


def test_only_operators_that_web_builds_have(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Those of Microsoft's that onnxruntime-web's wasm has; older ones lack GatherBlockQuantized."""
    import onnx

    known = {"RotaryEmbedding", "MatMulIntegerToFloat", "MatMulNBits"}
    for precision in PRECISIONS:
        path = written.write(checkpoint, tmp_path, precision)
        model = onnx.load(str(path), load_external_data=False)
        assert {n.op_type for n in model.graph.node if n.domain} <= known
        assert next(o.version for o in model.opset_import if not o.domain) == PRECISIONS[precision].opset


def test_zero_points_are_always_given(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Left out, they are 8 to some builds of ONNX Runtime and 0 to others."""
    import onnx

    trained = replace(checkpoint, source=replace(checkpoint.source, qat="q4_0"))
    path = written.write(trained, tmp_path, "int4")
    nodes = onnx.load(str(path), load_external_data=False).graph.node
    products = [n for n in nodes if n.op_type == "MatMulNBits"]
    layers = len(checkpoint.config.layer_types)
    assert len(products) == 7 * layers + 2
    assert all(n.input[3] == n.input[1].replace(":int4", ":zero") != n.input[1] for n in products)


def test_a_padding_row_of_zeros_is_harmless(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Trained tables may hold zeros for `<pad>`; 0 / 0 would spread through attention."""
    table = checkpoint.tensors["embed_tokens.weight"].array().copy()
    table[0] = 0
    for precision in PRECISIONS:
        path = written.write(
            written.with_tensors(checkpoint, {"embed_tokens.weight": table}), tmp_path, precision
        )
        (text,) = written.texts(checkpoint, [9])
        np.testing.assert_allclose(written.run(path, [text], 40), written.run(path, [text]), atol=1e-3)
