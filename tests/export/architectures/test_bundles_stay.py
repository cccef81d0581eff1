"""What is written for Gemma 3 stays as it was: graphs, weights and manifest, held to hashes.

Held is what every kind of CPU gives alike. Weights are multiples of a power of two and come from integers:
they are the same everywhere, and so is what is stored of them as they are, as a sum with one, or as codes
that each is rounded to by itself. Not held are sums of products, whose order is the CPU's (folded Dense
stages, balanced and compensated matrices, scales from calibration, golden vectors), and cosines and sines,
whose last digit is the CPU's too: of these, type and shape are. Recipes and 4-bit graphs are free to improve.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from edits import change_tensors

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.litert.reader import read_litert
from embedding_export.onnx.reader import read_stored
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle

# Written by the exporter before it knew of a second architecture; int8 since what it rounds by has names, and
# scales get their last axis only where it is needed.
HELD = {
    "architecture": "7f62d5752f8df2de",
    "onnx/model.onnx": "bc6263258f0f3a5d",
    "onnx/model_fp16.onnx": "8436ff45ee135613",
    "onnx/model_int8.onnx": "fb5b9ed7f329b1b7",
    "litert/model_fp32.tflite": "5cce1ac158cfe0e1",
    "litert/model_int8.tflite": "6a169caa3902ca81",
}
OF_MANIFEST = ("architecture", "stages", "max_seq_length", "embedding_dim", "dims", "prompts", "aliases")


@pytest.fixture(scope="module")
def digests(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("held")
    return digests_of(tiny_checkpoint, folder)


def digests_of(checkpoint: Path, folder: Path) -> dict[str, str]:
    """A hash for each file of `HELD`, of a bundle that is written below `folder`."""
    exact = Path(shutil.copytree(checkpoint, folder / "checkpoint"))
    for part in (".", "2_Dense", "3_Dense"):
        change_tensors(exact / part / "model.safetensors", _make_exact)
    options = ExportOptions(("fp32", "fp16", "int8"), formats=("onnx", "litert"), buckets=(32, 512))
    manifest = export_bundle(load_checkpoint(exact), folder / "bundle", options, "not asked")
    document = json.loads(manifest.to_json())
    found = {"architecture": _digest([json.dumps({k: document[k] for k in OF_MANIFEST}, sort_keys=True)])}
    for name in list(HELD)[1:]:
        path = folder / "bundle" / name
        parts = _of_onnx(path) if path.suffix == ".onnx" else _of_litert(path)
        found[name] = _digest(parts)
    return found


def _make_exact(tensors: dict[str, torch.Tensor]) -> None:
    """Multiples of 2^-12 below 1/4, by a congruential generator."""
    for number, name in enumerate(sorted(tensors)):
        count = np.arange(tensors[name].numel(), dtype=np.uint64) + np.uint64(number << 24)
        mixed = (count * np.uint64(2654435761) >> np.uint64(8)) % np.uint64(2048)
        values = (mixed.astype(np.float32) - 1024) / np.float32(4096)
        tensors[name] = torch.from_numpy(values.reshape(tensors[name].shape))


def _digest(parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else (part + "\n").encode())
    return digest.hexdigest()[:16]


def _of_onnx(path: Path) -> Iterator[str | bytes]:
    """Nodes in order, with what they are given; float constants by type and shape alone."""
    model = onnx.load(str(path), load_external_data=False)
    names = {
        t.name: f"{t.data_type} {list(t.dims)}"
        for t in model.graph.initializer
        if t.name.startswith("constant_") and t.data_type == onnx.TensorProto.FLOAT
    }
    for node in model.graph.node:
        attributes = sorted(onnx.helper.printable_attribute(a) for a in node.attribute)
        inputs = [names.get(n, n) for n in node.input]
        yield f"{node.domain} {node.op_type} {inputs} {list(node.output)} {attributes}"
    for value in (*model.graph.input, *model.graph.output):
        yield onnx.helper.printable_value_info(value)
    yield from _weights(path)


def _of_litert(path: Path) -> Iterator[str | bytes]:
    """Each signature's operators in order, with the shapes that they take and give."""
    model = schema.Model.GetRootAs(path.read_bytes())
    for graph in (model.Subgraphs(i) for i in range(model.SubgraphsLength())):
        shapes = [graph.Tensors(i).ShapeAsNumpy() for i in range(graph.TensorsLength())]
        for operator in (graph.Operators(i) for i in range(graph.OperatorsLength())):
            code = model.OperatorCodes(operator.OpcodeIndex())
            places = (operator.InputsAsNumpy(), operator.OutputsAsNumpy())
            given = [[np.asarray(shapes[t]).tolist() for t in place] for place in places]
            yield f"{code.BuiltinCode()} {code.Version()} {given}"
    yield from _weights(path)


def _weights(path: Path) -> Iterator[str | bytes]:
    """Every weight's name, kind and shape, and the values of those that are no sums."""
    stored = read_litert(path) if path.suffix == ".tflite" else read_stored(path)
    for name, weight in sorted(stored.items()):
        yield f"{name} {weight.kind} {weight.shape} {weight.turned}"
        sums = name.startswith("dense.") or ("int8" in path.name and name != "embed_tokens.weight")
        if not sums:
            yield np.ascontiguousarray(weight.array(), "<f4").tobytes()


@pytest.mark.parametrize("part", HELD)
def test_it_is_what_it_was(part: str, digests: dict[str, str]) -> None:
    assert digests[part] == HELD[part]
