"""The table of precisions says what the files are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import written

from embedding_export.architectures.interface.tensors import TABLE
from embedding_export.audit.audit import audit_graph
from embedding_export.bundle import describe
from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.onnx.reader import read_stored
from embedding_export.weights.precisions import PRECISIONS, precision_row
from embedding_export.weights.quantize import q4_0_blocks
from embedding_runtime.bundle import Precision


def test_every_row_has_a_file_of_its_own() -> None:
    assert len({row.onnx_file for row in PRECISIONS.values()}) == len(PRECISIONS)
    for row in PRECISIONS.values():
        assert set(row.recipe) >= {"weights", "table", "activations", "dense"}
        assert row.recipe["dense"].startswith("folded") == row.fold_dense
        assert "any" in row.golden_tolerance


def test_q4_0_is_for_those_trained_for_it() -> None:
    trained = precision_row("int4", "q4_0")
    assert (trained.storage, trained.fold_dense) == ("q4_0", False)
    assert trained.onnx_file == PRECISIONS["int4"].onnx_file
    for qat in (None, "q8_0"):
        assert precision_row("int4", qat) is PRECISIONS["int4"]
    assert precision_row("int8", "q4_0") is PRECISIONS["int8"]


def test_a_table_trained_for_q4_0_stays_on_its_grid(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Beside 8-bit matrices: what the file holds is the checkpoint's table, rounded by that rule."""
    row = precision_row("int8_q4", "q4_0")
    assert (row.storage, row.table, row.recipe["table"]) == ("int8", "q4_0", "Q4_0")
    assert row.recipe["weights"] == PRECISIONS["int8_q4"].recipe["weights"]
    assert precision_row("int8_q4", None).table == "int4"
    checkpoint = load_checkpoint(tiny_checkpoint)
    trained = replace(checkpoint, source=replace(checkpoint.source, qat="q4_0"))
    path = written.write(trained, tmp_path, "int8_q4")
    assert audit_graph(path, trained) == 68
    table = checkpoint.tensors[TABLE].array()
    blocks = q4_0_blocks(table)
    steps = blocks.codes.astype(np.float32) - blocks.zeros[..., None]
    expected = (steps * blocks.scales.astype(np.float32)[..., None]).reshape(table.shape)
    np.testing.assert_allclose(read_stored(path)[TABLE].array(), expected, atol=1e-7)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_bytes_per_parameter(tiny_checkpoint: Path, precision: Precision, tmp_path: Path) -> None:
    """Of matrices and table alone: norms and rotary tables weigh more in a tiny model."""
    checkpoint = load_checkpoint(tiny_checkpoint)
    path = written.write(checkpoint, tmp_path, precision)
    model = onnx.load(str(path), load_external_data=False)
    names = {n for n in checkpoint.tensors if n.endswith("proj.weight") or n == "embed_tokens.weight"}
    tensors = [t for t in model.graph.initializer if t.name.partition(":")[0] in names]
    size = sum(len(t.raw_data) or int({e.key: e.value for e in t.external_data}["length"]) for t in tensors)
    parameters = describe.architecture(checkpoint).parameters
    row = PRECISIONS[precision]
    assert 0.7 * row.bytes_per_parameter < size / parameters < 1.1 * row.bytes_per_parameter
