"""Activations of 7 bits, for CPUs whose fast u8 x s8 kernels would saturate with 8."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import written
from onnx import TensorProto, helper

from embedding_export.bundle.golden import seven_bits_tolerance
from embedding_runtime.bundle import SEVEN_BITS, GoldenVector
from embedding_runtime.engines import onnx_session
from embedding_runtime.engines.onnx_files.four_bits import with_eight_bits
from embedding_runtime.engines.onnx_files.seven_bits import ACTIVATION_ZERO, with_seven_bits
from embedding_runtime.engines.onnx_prepacked import build, open_prepacked
from embedding_runtime.engines.onnx_session import OnnxSession
from embedding_runtime.errors import BundleError

IN_16_BITS = 2**15 - 1


@pytest.fixture(scope="module", params=["int8", "int8_q4", "int4"])
def graph(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written.write_with_outliers(tmp_path_factory.mktemp("seven"), request.param)


def _vector(session: OnnxSession, ids: np.ndarray) -> np.ndarray:
    (vectors,) = session.run(ids[None], np.ones_like(ids[None]), ("sentence_embedding",))
    return np.asarray(vectors[0])


def test_no_sum_of_two_products_leaves_16_bits(graph: Path) -> None:
    """Of the codes that texts really have, in every product of the graph."""
    fewer = with_seven_bits(with_eight_bits(graph, graph))
    assert isinstance(fewer, bytes)
    model = onnx.load_from_string(fewer)
    constants = {t.name for t in model.graph.initializer}
    products = [n for n in model.graph.node if n.op_type == "MatMulIntegerToFloat"]
    dynamic = [n for n in products if n.input[1] not in constants]  # scores: both sides are unsigned
    codes = sorted({n.input[0] for n in products if n not in dynamic})
    for name in codes:
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.UINT8, None))
    options = onnx_session.session_options(1, seven_bits=True)
    session = onnx_session.create_session(model.SerializeToString(), options, graph)
    for ids in written.texts_beside(graph):
        feed = {"input_ids": ids[None], "attention_mask": np.ones_like(ids[None])}
        for name, values in zip(codes, session.run(codes, feed), strict=True):
            assert 2 * int(values.max()) * 127 <= IN_16_BITS, name
            assert values.min() >= 1, name
    zeros = {n.input[5]: n for n in dynamic}
    assert len(dynamic) > 1
    kinds = {t.name: t.data_type for t in model.graph.initializer if t.name in zeros}
    assert kinds.keys() == zeros.keys() and {*kinds.values()} == {TensorProto.UINT8}


def test_the_exact_graph_stays_exact(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without VNNI it runs on kernels that cannot saturate, as long as nobody asks for 7 bits."""
    ids = written.texts_beside(graph)[0]
    exact = _vector(OnnxSession(graph, 1), ids)
    fewer = _vector(OnnxSession(graph, 1, seven_bits=True), ids)
    assert np.abs(fewer - exact).max() > 0 and fewer @ exact > 0.98
    monkeypatch.setattr(onnx_session, "cpu_kind", lambda: "x86")
    np.testing.assert_allclose(_vector(OnnxSession(graph, 1), ids), exact, atol=2e-3)


def test_a_text_does_not_know_its_company(graph: Path) -> None:
    session, texts = OnnxSession(graph, 1, seven_bits=True), written.texts_beside(graph)
    longest = max(map(len, texts))
    ids = np.stack([np.pad(t, (0, longest - len(t))) for t in texts])
    mask = np.stack([np.arange(longest) < len(t) for t in texts]).astype(np.int64)
    together = session.run(ids, mask, ("sentence_embedding",))[0]
    np.testing.assert_array_equal(together, [_vector(session, t) for t in texts])


def test_the_device_cache_has_the_same(graph: Path, tmp_path: Path) -> None:
    build(graph, tmp_path, seven_bits=True)
    prepared = tmp_path / "model.onnx"
    assert with_seven_bits(prepared) is prepared, "it has 7 bits already"
    session = open_prepacked(tmp_path, graph, 1, seven_bits=True)
    alone = OnnxSession(graph, 1, seven_bits=True)
    for ids in written.texts_beside(graph):
        np.testing.assert_array_equal(_vector(session, ids), _vector(alone, ids))


def test_graphs_that_do_not_name_their_rounding(tiny_bundle: Path, graph: Path) -> None:
    """Those of other programs, of older versions and without int8."""
    older = graph.read_bytes().replace(ACTIVATION_ZERO.encode(), ACTIVATION_ZERO[::-1].encode())
    for model in (next((tiny_bundle / "onnx").glob("model.onnx")), older):
        with pytest.raises(BundleError, match="no constant constant_activation"):
            with_seven_bits(model)
    nameless = onnx.load(str(graph), load_external_data=False)
    nameless.graph.initializer.add()
    with pytest.raises(BundleError, match="not an ONNX file"):
        with_seven_bits(nameless.SerializeToString())
    with pytest.raises(BundleError, match="not an ONNX file"):
        with_seven_bits(graph.read_bytes()[:-9])


@pytest.mark.parametrize("tolerance", [1.0, 1e-6])
def test_a_bundle_allows_them_where_golden_vectors_hardly_change(tolerance: float, graph: Path) -> None:
    session = OnnxSession(graph, 1)
    golden = [GoldenVector.of(ids.tolist(), _vector(session, ids)) for ids in written.texts_beside(graph)]
    allowed = seven_bits_tolerance(graph, golden, tolerance)
    fewer = OnnxSession(graph, 1, seven_bits=True)
    worst = max(np.abs(_vector(fewer, np.array(g.ids)) - g.vector).max() for g in golden)
    assert allowed == ({SEVEN_BITS: pytest.approx(worst + 1, abs=1e-3)} if tolerance == 1 else {})
