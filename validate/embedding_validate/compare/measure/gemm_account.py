"""How far a graph is from the CPU's rate of matrix products, and where the rest of its time goes.

An account has, for each shape: the time that the encoder's products would take at the best rate that ONNX
Runtime reaches on this CPU, the time they take alone with their weights in the CPU's caches, and a run's own
profile. `measure.account` chooses the graphs.
"""

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from embedding_runtime.engines.onnx_session import create_session, engine, session_options
from embedding_validate.compare.document.shapes import Shape
from embedding_validate.compare.measure.best_block import best_seconds
from embedding_validate.compare.measure.protocol import token_ids

# The best rate is looked for at these sizes (rows, inner, columns).
_PEAK_SIZES = ((64, 768, 768), (256, 768, 1152), (256, 1024, 1024), (1024, 1024, 1024))
# Every size is run for about this long, in this many blocks.
_SECONDS, _BLOCKS = 0.5, 20
_PRODUCTS = ("MatMul", "FusedMatMul", "MatMulIntegerToFloat", "MatMulNBits")
# Where a node's time is counted, by its operator; what is not named is counted as "moving".
_PLACES = {
    **dict.fromkeys(("QuantizeLinear", "ReduceMin", "ReduceMax", "Max"), "quantizing"),
    **dict.fromkeys(("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"), "norms"),
    **dict.fromkeys(("Mul", "Gelu", "QuickGelu", "BiasGelu"), "elementwise"),
    "Softmax": "attention",
    "RotaryEmbedding": "attention",
}
PLACES = ("weights", "attention", "quantizing", "norms", "elementwise", "moving", "between")


@dataclass(frozen=True)
class Account:
    """One shape, in milliseconds on `threads` threads.

    `total` is a run's median without the profiler. `at_peak`: the weights' products at the CPU's best rate;
    `alone`: those products one after the other, weights in cache. `places` are a profiled run's, scaled so
    that they sum up to `total`: "weights" are the same products there, "between" is what no node accounts
    for. The profiler costs some microseconds a node, which makes small nodes of short runs look larger.
    """

    shape: str
    threads: int
    operations: int
    total: float
    at_peak: float
    alone: float
    places: dict[str, float]

    @property
    def of_peak(self) -> float:
        """Share of the best rate that a whole run reaches."""
        return self.at_peak / self.total


def product(
    precision: str, inner: int, columns: int, threads: int, matrices: int = 1
) -> Callable[[int], Callable[[], None]]:
    """For a number of rows: one product with each of so many matrices by ONNX Runtime, u8 x s8 ("int8") or
    float32, weights packed. All are written to the same place, as a graph uses its memory again."""
    with tempfile.TemporaryDirectory() as folder:
        return _product(precision, (inner, columns), threads, matrices, Path(folder))


def weights_of_one_file(
    names: Sequence[str], shape: tuple[int, int], dtype: type[np.generic], folder: Path
) -> list[TensorProto]:
    """Matrices of these names, overlapping pieces of one file in `folder`: the engine packs each for itself
    and holds nothing else of them. Of equal ones it would hold one."""
    apart, size = 16, shape[0] * shape[1]
    values = np.random.default_rng(0).integers(-127, 128, size + apart * len(names), dtype=np.int8)
    stored = values.astype(dtype)
    (folder / names[0]).write_bytes(stored.tobytes())
    kind = helper.np_dtype_to_tensor_dtype(stored.dtype)
    tensors = [TensorProto(name=name, data_type=kind, dims=shape, raw_data=b"") for name in names]
    for i, tensor in enumerate(tensors):
        set_external_data(tensor, names[0], i * apart * stored.itemsize, size * stored.itemsize)
    return tensors


def _product(
    precision: str, shape: tuple[int, int], threads: int, matrices: int, folder: Path
) -> Callable[[int], Callable[[], None]]:
    inner, columns = shape
    rng = np.random.default_rng(0)
    integer, names = precision == "int8", [f"y{i}" for i in range(matrices)]
    scales = {"s": np.float32(1), "bs": np.ones(columns, np.float32), "z": np.uint8(128)}
    if not integer:
        scales = {}
    operator, domain = ("MatMulIntegerToFloat", "com.microsoft") if integer else ("MatMul", "")
    operands = [numpy_helper.from_array(np.asarray(v), n) for n, v in scales.items()]
    stored = [f"{name}_b" for name in names]
    operands += weights_of_one_file(stored, shape, np.int8 if integer else np.float32, folder)
    nodes = [
        helper.make_node(operator, ["a", b, *scales], [name], domain=domain)
        for name, b in zip(names, stored, strict=True)
    ]
    value, kind = helper.make_tensor_value_info, TensorProto.UINT8 if integer else TensorProto.FLOAT
    inputs = [value("a", kind, ["m", inner])]
    outputs = [value(name, TensorProto.FLOAT, ["m", columns]) for name in names]
    graph = helper.make_graph(nodes, "product", inputs, outputs, initializer=operands)
    domains = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=9)
    session = create_session(model.SerializeToString(), session_options(threads), folder / "product.onnx")

    def bound(rows: int) -> Callable[[], None]:
        values = rng.integers(0, 256, (rows, inner), dtype=np.uint8)
        binding = session.io_binding()
        binding.bind_cpu_input("a", values if integer else values.astype(np.float32))
        out = engine().OrtValue.ortvalue_from_numpy(np.empty((rows, columns), np.float32))
        for name in names:
            binding.bind_ortvalue_output(name, out)
        return lambda: session.run_with_iobinding(binding)

    return bound


def peak(precision: str, threads: int) -> float:
    """The best rate of any size, operations per second; a multiplication and an addition are two."""
    rates = []
    for rows, inner, columns in _PEAK_SIZES:
        operations = 2 * rows * inner * columns
        run = product(precision, inner, columns, threads)(rows)
        rates.append(operations / best_seconds(run, operations / 5e11, _SECONDS / _BLOCKS, _BLOCKS))
    return max(rates)


def operators(path: Path) -> set[str]:
    """The names of the operators in the graph at `path`."""
    return {node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node}


def precision(path: Path) -> str:
    """The type in which the graph at `path` multiplies by its weights: int8 or fp32."""
    return "int8" if "MatMulIntegerToFloat" in operators(path) else "fp32"


def matrices(path: Path) -> Counter[tuple[int, int]]:
    """Sizes (inner, columns) of a layer's matrices in the graph at `path`, and how often each occurs."""
    counts: Counter[tuple[int, int]] = Counter()
    model = onnx.load(str(path), load_external_data=False)
    tensors = {t.name: tuple(t.dims) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in _PRODUCTS and node.name.startswith("node:layers."):
            attributes = {a.name: a.i for a in node.attribute}
            size = tensors.get(node.input[1], ())
            inner, columns = (attributes["K"], attributes["N"]) if "K" in attributes else size
            counts[inner, columns] += 1
    return counts


def account(path: Path, shape: Shape, threads: int, vocab_size: int, peak_rate: float) -> Account:
    """One shape of the graph at `path`; `peak_rate` in operations per second."""
    sizes, rows = matrices(path), shape.batch * shape.tokens
    operations = sum(2 * rows * k * n * count for (k, n), count in sizes.items())
    kind = precision(path)
    alone = sum(
        count
        * best_seconds(
            product(kind, k, n, threads)(rows),
            2 * rows * k * n / peak_rate,
            _SECONDS / _BLOCKS,
            _BLOCKS,
        )
        for (k, n), count in sizes.items()
    )
    ids = token_ids(vocab_size, shape.batch, shape.tokens)
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    runs = max(5, min(50, round(5e11 / operations)))
    total = _median(path, threads, feed, runs)
    places = _profiled(path, threads, feed, runs)
    scale = total / sum(places.values())
    places = {place: scale * ms for place, ms in places.items()}
    return Account(str(shape), threads, operations, total, 1e3 * operations / peak_rate, 1e3 * alone, places)


def _median(path: Path, threads: int, feed: dict[str, Any], runs: int) -> float:
    """Milliseconds of a run."""
    session = create_session(path, session_options(threads), path)
    seconds = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        session.run(["sentence_embedding"], feed)
        seconds.append(time.perf_counter() - started)
    return 1e3 * float(np.median(seconds[1:]))


def _profiled(path: Path, threads: int, feed: dict[str, Any], runs: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        options = session_options(threads)
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        session = create_session(path, options, path)
        for _ in range(runs + 1):
            session.run(["sentence_embedding"], feed)
        return places_of(json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")))


def places_of(events: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Milliseconds by place, of the median run in a profile of ONNX Runtime's, the first one left out."""
    runs = sorted((e for e in events if e["name"] == "model_run"), key=lambda e: e["ts"])[1:]
    middle = sorted(runs, key=lambda e: e["dur"])[len(runs) // 2]
    start, stop = middle["ts"], middle["ts"] + middle["dur"]
    milliseconds = dict.fromkeys(PLACES, 0.0)
    for event in events:
        name = event["name"].removesuffix("_kernel_time")
        if event.get("cat") == "Node" and name != event["name"] and start <= event["ts"] < stop:
            milliseconds[_place(name, event["args"]["op_name"])] += event["dur"] / 1e3
    milliseconds["between"] = middle["dur"] / 1e3 - sum(milliseconds.values())
    return milliseconds


def _place(name: str, operator: str) -> str:
    named = name.startswith(("node:layers.", "node:dense."))
    if operator in _PRODUCTS:
        return "weights" if named else "attention"
    if operator == "Add":
        return "elementwise" if named else "attention"
    return _PLACES.get(operator, "moving")
