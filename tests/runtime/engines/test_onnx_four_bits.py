"""4-bit matrices that are multiplied by 8-bit kernels: the same sums as the graph itself gives elsewhere."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import written
from onnx import numpy_helper

from embedding_export.onnx.reader import read_stored
from embedding_runtime.engines.onnx_files.four_bits import has_four_bits, with_eight_bits
from embedding_runtime.engines.onnx_prepacked import build, open_prepacked
from embedding_runtime.engines.onnx_session import OnnxSession
from embedding_runtime.errors import BundleError


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written.write_with_outliers(tmp_path_factory.mktemp("four"), "int4")


def _elsewhere(graph: Path, ids: np.ndarray) -> np.ndarray:
    """What a program that knows nothing of this gets, with its engine's own 4-bit kernels; the matrices of 8
    bits are multiplied without saturating, as runtime/ONNX.md says."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    given = {"input_ids": ids[None], "attention_mask": np.ones_like(ids[None])}
    return np.asarray(session.run(["last_hidden_state"], given)[0][0])


def test_other_programs_get_the_same(graph: Path) -> None:
    for ids in written.texts_beside(graph):
        found = written.run(graph, [ids], output="last_hidden_state")[0]
        right = _elsewhere(graph, ids)
        np.testing.assert_allclose(found, right, rtol=0, atol=1e-4 * np.abs(right).max())


def test_all_products_are_of_8_bits(graph: Path) -> None:
    edited = with_eight_bits(graph, graph)
    assert isinstance(edited, bytes)
    before = onnx.load(str(graph), load_external_data=False).graph
    after = onnx.load_from_string(edited).graph
    kinds = [[n.op_type for n in g.node] for g in (before, after)]
    four = kinds[0].count("MatMulNBits")
    assert four > 10 and "MatMulNBits" not in kinds[1]
    name = "MatMulIntegerToFloat"
    assert kinds[1].count(name) == kinds[0].count(name) + four
    stored = read_stored(graph)["layers.1.mlp.down_proj.weight"]
    (codes,) = (t for t in after.initializer if t.name == "layers.1.mlp.down_proj.weight:takes_turned:int8")
    (scale,) = (t for t in after.initializer if t.name == codes.name.replace("int8", "scale"))
    values = numpy_helper.to_array(codes).T.astype(np.float32) * numpy_helper.to_array(scale)[:, None]
    assert stored.kind == "int4" and stored.eight_bits
    np.testing.assert_allclose(values, stored.array(), rtol=1e-6, atol=0)
    with pytest.raises(StopIteration):
        next(t for t in after.initializer if t.name.endswith((":products", ":takes_turned:int4")))


def test_the_device_cache_has_the_same(graph: Path, tmp_path: Path) -> None:
    build(graph, tmp_path)
    assert not has_four_bits((tmp_path / "model.onnx").read_bytes())
    session = open_prepacked(tmp_path, graph, 1)
    for ids in written.texts_beside(graph):
        found = session.run(ids[None], np.ones_like(ids[None]), ("sentence_embedding",))[0]
        np.testing.assert_array_equal(found, written.run(graph, [ids]))


def test_a_graph_behind_links(graph: Path, tmp_path: Path) -> None:
    """As hub caches keep bundles: neither file has its name where it lies."""
    for file in (graph, graph.with_name(graph.name + "_data")):
        (tmp_path / file.name).symlink_to(file)
    ids = written.texts_beside(graph)[1]
    np.testing.assert_array_equal(written.run(tmp_path / graph.name, [ids]), written.run(graph, [ids]))


def test_other_graphs_stay_as_they_are(tiny_bundle: Path) -> None:
    path = next((tiny_bundle / "onnx").glob("*.onnx"))
    assert with_eight_bits(path, path) is path
    assert with_eight_bits(tiny_bundle / "none.onnx", path) == tiny_bundle / "none.onnx"


@pytest.mark.parametrize("kept", [0, 5000])
def test_data_that_is_cut_off_is_refused(kept: int, graph: Path, tmp_path: Path) -> None:
    copy = tmp_path / graph.name
    copy.write_bytes(graph.read_bytes())
    data = graph.with_name(graph.name + "_data")
    (tmp_path / data.name).write_bytes(data.read_bytes()[:kept])
    with pytest.raises(BundleError, match=r"4-bit matrices of .* cannot be read"):
        OnnxSession(copy, 1)


def _tensor(model: onnx.ModelProto, part: str) -> onnx.TensorProto:
    """A part of the first 4-bit matrix."""
    stem = next(n.output[0] for n in model.graph.node if n.output[0].endswith(":products"))
    name = f"{stem.removesuffix(':products')}:{part}"
    found: onnx.TensorProto = next(t for t in model.graph.initializer if t.name == name)
    return found


def _said(tensor: onnx.TensorProto, key: str, value: str) -> None:
    (entry,) = (e for e in tensor.external_data if e.key == key)
    entry.value = value


EDITS: dict[str, Callable[[onnx.ModelProto], object]] = {
    "above its folder": lambda m: _said(_tensor(m, "int4"), "location", "../secret"),
    "anywhere": lambda m: _said(_tensor(m, "int4"), "location", "/etc/passwd"),
    "nowhere": lambda m: _said(_tensor(m, "int4"), "location", "gone"),
    "before its file": lambda m: _said(_tensor(m, "int4"), "offset", "-64"),
    "far behind its file": lambda m: _said(_tensor(m, "int4"), "offset", str(2**70)),
    "an entry without a key": lambda m: _tensor(m, "int4").external_data[0].ClearField("key"),
    "larger than any memory": lambda m: _tensor(m, "int4").dims.append(2**62),
    "a negative size": lambda m: _tensor(m, "int4").dims.append(-1),
    "no shape": lambda m: _tensor(m, "zero").ClearField("dims"),
    "no name": lambda m: _tensor(m, "step").ClearField("name"),
    "no tensor": lambda m: m.graph.initializer.remove(_tensor(m, "zero")),
    "no operator": lambda m: m.graph.node[0].ClearField("op_type"),
}


@pytest.mark.parametrize("edit", EDITS, ids=lambda name: name.replace(" ", "-"))
def test_an_edited_graph_is_refused(edit: str, graph: Path, tmp_path: Path) -> None:
    """Its matrices lie where they cannot be read, or must not: a graph reads nothing outside its folder."""
    model = onnx.load(str(graph), load_external_data=False)
    EDITS[edit](model)
    data = f"{graph.name}_data"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / data).symlink_to(graph.with_name(data))
    (tmp_path / "secret").symlink_to(graph.with_name(data))
    copy = tmp_path / "in" / graph.name
    copy.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match=r"4-bit matrices of .* cannot be read|is not an ONNX file"):
        with_eight_bits(copy, copy)
