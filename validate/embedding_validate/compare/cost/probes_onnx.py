"""Operators for ONNX Runtime to be timed on: products as the exporter's graphs have them, and others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from embedding_runtime.engines.onnx_session import create_session, session_options
from embedding_validate.compare.cost.device import (
    CHAIN,
    COLUMNS,
    ELEMENTS_ROWS,
    INNER,
    ROWS,
    Probes,
    Run,
    matrices,
)
from embedding_validate.compare.cost.work import Kind
from embedding_validate.compare.measure.gemm_account import product

_STREAM = (1024, 65536)
_HEAD, _GROUP = 256, 3
_OPSET, _IR = 21, 10


def probes(threads: int) -> Probes:
    """Everything of `Probes`, sessions opened."""
    kinds: tuple[Kind, ...] = ("int8", "fp32")
    products = {kind: _products(kind, threads) for kind in kinds}
    inner, columns = _STREAM
    x = np.random.default_rng(0).standard_normal((ELEMENTS_ROWS, INNER)).astype(np.float32)
    one = np.ones(INNER, np.float32)
    scale, zero = np.full((ELEMENTS_ROWS, 1), 0.05, np.float32), np.full((ELEMENTS_ROWS, 1), 128, np.uint8)
    elements: dict[Kind, Run] = {
        "softmax": _run([_node("Softmax", "x", axis=-1)], {"x": x}, {}, threads),
        "gelu": _run([_node("Gelu", "x", approximate="tanh")], {"x": x}, {}, threads),
        "norm": _run(
            [_node("SimplifiedLayerNormalization", "x", "w", axis=-1, epsilon=1e-6)],
            {"x": x},
            {"w": one},
            threads,
        ),
        "quantize": _run(
            [_node("QuantizeLinear", "x", "s", "z", axis=-1, block_size=INNER)],
            {"x": x},
            {"s": scale, "z": zero},
            threads,
            TensorProto.UINT8,
        ),
        "arithmetic": _run([_node("Mul", "x", "b")], {"x": x, "b": x[::-1].copy()}, {}, threads),
        "moving": _run([_node("Transpose", "x", perm=[1, 0])], {"x": x}, {}, threads),
    }
    tiny = np.ones((1, 8), np.float32)
    chain = [_node("Relu" if i % 2 else "Neg", f"y{i}" if i else "x", out=f"y{i + 1}") for i in range(CHAIN)]
    chain[-1].output[0] = "y"
    return Probes(
        products=products,
        scores={rows: _scores(rows, threads) for rows in ROWS},
        stream=product("int8", inner, columns, threads)(1),
        stream_bytes=inner * columns,
        chain=_run(chain, {"x": tiny}, {}, threads),
        elements=elements,
    )


def _products(kind: Kind, threads: int) -> dict[int, Run]:
    by_count = {n: product(kind, INNER, COLUMNS, threads, n) for n in {matrices(kind, r) for r in ROWS}}
    return {rows: by_count[matrices(kind, rows)](rows) for rows in ROWS}


def _scores(rows: int, threads: int) -> tuple[int, Run]:
    """Queries of one key head times its keys; multiply-accumulates, and the run."""
    rng = np.random.default_rng(0)
    keys = max(16, rows // _GROUP)
    q, k = (rng.standard_normal(shape).astype(np.float32) for shape in ((1, rows, _HEAD), (1, _HEAD, keys)))
    return rows * _HEAD * keys, _run([_node("MatMul", "x", "b")], {"x": q, "b": k}, {}, threads)


def _node(op: str, *inputs: str, out: str = "y", **attributes: Any) -> Any:
    return helper.make_node(op, inputs, [out], **attributes)


def _run(
    nodes: list[Any],
    inputs: Mapping[str, Any],
    stored: Mapping[str, Any],
    threads: int,
    kind: int = TensorProto.FLOAT,
) -> Run:
    """A graph of these nodes on values, whose result `y` is of a kind."""
    value = helper.make_tensor_value_info
    infos = [value(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in inputs.items()]
    tensors = [numpy_helper.from_array(v, n) for n, v in stored.items()]
    graph = helper.make_graph(nodes, "probe", infos, [value("y", kind, None)], initializer=tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    session = create_session(model.SerializeToString(), session_options(threads), Path("probe.onnx"))
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_cpu_input(name, array)
    binding.bind_output("y")
    return lambda: session.run_with_iobinding(binding)
