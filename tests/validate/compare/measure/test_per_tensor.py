"""The variant with one scale per tensor: the same model, rounded as most tools do."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import written

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_validate.compare import cli as compare
from embedding_validate.compare.measure.per_tensor import per_tensor


def test_only_the_rounding_is_another(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Near to int8's vectors, by the batch it travels in; a scale per token is nowhere left."""
    checkpoint = load_checkpoint(tiny_checkpoint)
    path = written.write(checkpoint, tmp_path, "int8")
    variant = tmp_path / "variant.onnx"
    variant.write_bytes(per_tensor(path))
    short, long = written.texts(checkpoint, [9, 60])
    alone = written.run(variant, [short])[0]
    assert 0.98 < float(alone @ written.run(path, [short])[0]) < 0.999999
    assert np.abs(written.run(variant, [short, long])[0] - alone).max() > 1e-4
    assert np.abs(written.run(path, [short, long])[0] - written.run(path, [short])[0]).max() < 1e-6
    nodes = onnx.load(str(variant), load_external_data=False).graph.node
    assert not any(a.name == "block_size" for n in nodes for a in n.attribute)
    kinds = [n.op_type for n in nodes]
    assert kinds.count("DynamicQuantizeLinear") == 4 * len(checkpoint.config.layer_types)
    assert "ReduceMax" not in kinds
    assert onnxruntime.InferenceSession(str(variant)).get_outputs()[1].name == "sentence_embedding"


def test_it_needs_int8(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main([str(tiny_bundle), "--per-tensor", "--output", str(tmp_path / "out")]) == 2
    assert "--per-tensor needs" in capsys.readouterr().err
