"""The variant with one scale per tensor: the same model, rounded as most tools do, beside the benchmark's."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import written
from conftest import assumed

from embedding_export.checkpoint import load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_validate import benchmark
from embedding_validate.per_tensor import per_tensor


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
    assert kinds.count("DynamicQuantizeLinear") == 4 * checkpoint.config.num_hidden_layers + 1
    assert "ReduceMax" not in kinds
    assert onnxruntime.InferenceSession(str(variant)).get_outputs()[1].name == "sentence_embedding"


def test_in_the_benchmark(tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, output = tmp_path / "bundle", tmp_path / "b.json"
    export_bundle(load_checkpoint(tiny_checkpoint), bundle, ExportOptions(("int8",)), assumed)
    arguments = ["--per-tensor", "--threads", "1", "--shapes", "6", "--rounds", "1", "--output", str(output)]
    assert benchmark.main([str(bundle), *arguments]) == 0
    systems = [t["system"] for t in json.loads(output.read_text())["timings"]]
    assert systems == ["onnx/int8", "onnx/int8, scale per tensor"]


def test_it_needs_int8(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main([str(tiny_bundle), "--per-tensor"]) == 2
    assert "--per-tensor needs" in capsys.readouterr().err
