"""Operators for ONNX Runtime to be timed on: products as the exporter's graphs have them, and others."""

import tempfile
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from embedding_runtime.engines.onnx_session import create_session, session_options
from embedding_validate.compare.cost.device import (
    COLUMNS,
    ELEMENTS_ROWS,
    INNER,
    MATRICES,
    ROWS,
    Build,
    Probes,
    Run,
    matrices,
)
from embedding_validate.compare.cost.work import Kind
from embedding_validate.compare.measure.gemm_account import product, weights_of_one_file

# So many matrices of this size, which caches do not hold together.
_STREAM, _STREAM_MATRICES = (1024, 8192), 8
_HEAD, _GROUP = 256, 3
_OPSET, _IR, _MICROSOFT = 21, 10, "com.microsoft"


def probes(threads: int, streamed: Collection[Kind]) -> Probes:
    """Everything of `Probes`."""
    kinds: tuple[Kind, ...] = ("int8", "fp32")
    inner, columns = _STREAM
    x = np.random.default_rng(0).standard_normal((ELEMENTS_ROWS, INNER)).astype(np.float32)
    one = np.ones(INNER, np.float32)
    scale, zero = np.full((ELEMENTS_ROWS, 1), 0.05, np.float32), np.full((ELEMENTS_ROWS, 1), 128, np.uint8)
    norm = _node("SimplifiedLayerNormalization", "x", "w", axis=-1, epsilon=1e-6)
    codes = _node("QuantizeLinear", "x", "s", "z", axis=-1, block_size=INNER)
    stored = {"s": scale, "z": zero}
    elements: dict[Kind, Build] = {
        "softmax": partial(_run, [_node("Softmax", "x", axis=-1)], {"x": x}, {}, threads),
        "gelu": partial(_run, [_node("Gelu", "x", approximate="tanh")], {"x": x}, {}, threads),
        "norm": partial(_run, [norm], {"x": x}, {"w": one}, threads),
        "quantize": partial(_run, [codes], {"x": x}, stored, threads, TensorProto.UINT8),
        "arithmetic": partial(_run, [_node("Mul", "x", "b")], {"x": x, "b": x[::-1].copy()}, {}, threads),
        "moving": partial(_run, [_node("Transpose", "x", perm=[1, 0])], {"x": x}, {}, threads),
    }
    return Probes(
        products={kind: _products(kind, threads, streamed) for kind in kinds},
        scores={rows: _scores(rows, threads) for rows in ROWS},
        stream=lambda: product("int8", inner, columns, threads, _STREAM_MATRICES)(1),
        stream_bytes=_STREAM_MATRICES * inner * columns,
        layers=lambda: _layers(threads),
        small=4,
        elements=elements,
    )


def _products(kind: Kind, threads: int, streamed: Collection[Kind]) -> dict[int, Build]:
    def build(rows: int) -> Run:
        return product(kind, INNER, COLUMNS, threads, matrices(kind, rows, streamed))(rows)

    return {rows: partial(build, rows) for rows in ROWS}


def _layers(threads: int) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        return _layers_in(Path(folder), threads)


def _layers_in(folder: Path, threads: int) -> Run:
    """Products of the fewest rows, each of codes of what the one before gives."""
    rng, rows = np.random.default_rng(0), ROWS[0]
    stored: dict[str, Any] = {
        "one": np.float32(1),
        "zero": np.uint8(128),
        "scale": np.full((rows, 1), 0.05, np.float32),
        "zeros": np.full((rows, 1), 128, np.uint8),
    }
    nodes: list[Any] = []

    def small(name: str, columns: int) -> None:
        stored[f"w{columns}"] = np.ones(columns, np.float32)
        nodes.append(_node("Mul", f"{name}:y", "scale", out=f"{name}:a"))
        norm = ("SimplifiedLayerNormalization", f"{name}:a", f"w{columns}")
        nodes.append(_node(*norm, out=f"{name}:b", axis=-1, epsilon=1e-6))
        nodes.append(_node("Mul", f"{name}:b", f"w{columns}", out=f"{name}:c"))
        codes = ("QuantizeLinear", f"{name}:c", "scale", "zeros")
        nodes.append(_node(*codes, out=f"{name}:d", axis=-1, block_size=columns))

    given, sizes = "x", (INNER, COLUMNS)
    weights: list[TensorProto] = []
    for first, (inner, columns) in enumerate((sizes, sizes[::-1])):
        names = [f"m{i}" for i in range(first, MATRICES, 2)]
        weights += weights_of_one_file(names, (inner, columns), np.int8, folder)
        stored[f"s{columns}"] = np.full(columns, 1e-3, np.float32)
    for i in range(MATRICES):
        columns = sizes[(i + 1) % 2]
        operands = (given, f"m{i}", "one", f"s{columns}", "zero")
        nodes.append(_node("MatMulIntegerToFloat", *operands, out=f"{i}:y", domain=_MICROSOFT))
        small(str(i), columns)
        given = f"{i}:d"
    nodes[-1].output[0] = "y"
    x = rng.integers(0, 256, (rows, INNER), dtype=np.uint8)
    return _run(nodes, {"x": x}, stored, threads, TensorProto.UINT8, weights, folder / "layers.onnx")


def _scores(rows: int, threads: int) -> tuple[int, Build]:
    """Queries of one key head times its keys; multiply-accumulates, and the probe."""
    rng = np.random.default_rng(0)
    keys = max(16, rows // _GROUP)
    q, k = (rng.standard_normal(shape).astype(np.float32) for shape in ((1, rows, _HEAD), (1, _HEAD, keys)))
    return rows * _HEAD * keys, partial(_run, [_node("MatMul", "x", "b")], {"x": q, "b": k}, {}, threads)


def _node(op: str, *inputs: str, out: str = "y", **attributes: Any) -> Any:
    return helper.make_node(op, inputs, [out], **attributes)


def _run(
    nodes: list[Any],
    inputs: Mapping[str, Any],
    stored: Mapping[str, Any],
    threads: int,
    kind: int = TensorProto.FLOAT,
    weights: Sequence[TensorProto] = (),
    path: Path = Path("probe.onnx"),
) -> Run:
    """A graph of these nodes on values, whose result `y` is of a kind; what `weights` refer to lies beside
    `path`."""
    value = helper.make_tensor_value_info
    infos = [value(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in inputs.items()]
    tensors = [numpy_helper.from_array(v, n) for n, v in stored.items()]
    graph = helper.make_graph(
        nodes, "probe", infos, [value("y", kind, None)], initializer=[*tensors, *weights]
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR)
    session = create_session(model.SerializeToString(), session_options(threads), path)
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_cpu_input(name, array)
    binding.bind_output("y")
    return lambda: session.run_with_iobinding(binding)
