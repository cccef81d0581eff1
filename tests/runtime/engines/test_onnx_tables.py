"""Tables of an ONNX graph that become inputs, so that they stay mapped from the bundle's own files."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from embedding_runtime.bundle import load_manifest
from embedding_runtime.engines.onnx_files.tables import without_tables
from embedding_runtime.errors import BundleError, EmbeddingError


def test_tables_become_inputs(tiny_bundle: Path) -> None:
    path = tiny_bundle / load_manifest(tiny_bundle).graphs[0].file
    before = onnx.load(str(path), load_external_data=False).graph
    model, tables = without_tables(path.read_bytes())
    after = onnx.load_from_string(model)
    names = {t.name for t in tables}
    assert "embed_tokens.weight" in names
    assert {i.name for i in before.initializer} - {i.name for i in after.graph.initializer} == names
    assert [i.name for i in after.graph.input][:2] == ["input_ids", "attention_mask"]
    assert {i.name for i in after.graph.input[2:]} == names
    for read in after.graph.node:
        assert not names & set(read.input[0 if read.op_type != "Gather" else 1 :])
    loaded = {i.name: i for i in onnx.load(str(path)).graph.initializer}
    for table in tables:
        mapped = np.memmap(path.parent / table.file, table.dtype, "r", table.offset, table.shape)
        np.testing.assert_array_equal(mapped, onnx.numpy_helper.to_array(loaded[table.name]))
        assert table.size == mapped.nbytes


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x3a\xff\xff\xff\x0f", b"\xff" * 9])
def test_what_is_not_onnx_is_refused(content: bytes) -> None:
    with pytest.raises(EmbeddingError, match="not an ONNX file"):
        without_tables(content)


@pytest.mark.parametrize("entry", [None, "../model", "/model"])
def test_a_table_without_a_place_in_its_folder(tiny_bundle: Path, entry: str | None) -> None:
    model = onnx.load(str(tiny_bundle / "onnx/model.onnx"), load_external_data=False)
    tensor = next(t for t in model.graph.initializer if t.external_data)
    del tensor.external_data[:]
    given = tensor.external_data.add()
    if entry is not None:
        given.key, given.value = "location", entry
    with pytest.raises(BundleError, match="not an ONNX file"):
        without_tables(model.SerializeToString())
