"""Operators for LiteRT to be timed on: products as the exporter's files have them, and others."""

import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from embedding_export.litert.file import FLOAT32, LitertFile, Signature, Stored, Value
from embedding_runtime.engines.litert_log import quiet
from embedding_runtime.engines.registry import engine_module
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

_STREAM = (1024, 65536)
_HEAD, _GROUP = 256, 3
# Versions of FULLY_CONNECTED that read float32 and int8 weights (litert.storage).
_FULLY_CONNECTED = {"fp32": 6, "int8": 12}

Operators = Callable[[LitertFile, Signature, Sequence[Value]], Value]


def probes(threads: int, streamed: Collection[Kind]) -> Probes:
    """Everything of `Probes`."""
    engine_module("litert")
    plane = [(ELEMENTS_ROWS, INNER)]

    def unary(operator: str, **options: Any) -> Build:
        return partial(_run, plane, lambda _, s, x: s.op(operator, x, x[0].shape, **options), threads)

    def transposed(_: LitertFile, s: Signature, x: Sequence[Value]) -> Value:
        return s.op("TRANSPOSE", [x[0], s.ints(1, 0)], x[0].shape[::-1])

    def products(kind: Kind) -> dict[int, Build]:
        counts = {rows: matrices(kind, rows, streamed) for rows in ROWS}
        return {r: partial(_product, kind, r, INNER, COLUMNS, threads, n) for r, n in counts.items()}

    elements: dict[Kind, Build] = {
        "softmax": unary("SOFTMAX", beta=1.0),
        "gelu": unary("GELU", approximate=True),
        "arithmetic": partial(_run, plane * 2, lambda _, s, x: s.op("MUL", x, x[0].shape), threads),
        "moving": partial(_run, plane, transposed, threads),
    }
    # A norm is made of others; what is left of it, means and roots, has one element a row.
    elements["norm"] = elements["arithmetic"]
    return Probes(
        products={"int8": products("int8"), "fp32": products("fp32")},
        scores={rows: _scores(rows, threads) for rows in ROWS},
        stream=partial(_product, "int8", 1, *_STREAM, threads),
        stream_bytes=_STREAM[0] * _STREAM[1],
        layers=partial(_product, "int8", ROWS[0], INNER, COLUMNS, threads, MATRICES, small=True),
        small=4,
        elements=elements,
    )


def _product(
    kind: str, rows: int, inner: int, columns: int, threads: int, count: int = 1, small: bool = False
) -> Run:
    """Products with so many matrices, each of what the one before gives, with `small` operators between."""
    rng, sizes = np.random.default_rng(0), (inner, columns)

    def weight(file: LitertFile, out: int, taken: int) -> Stored:
        codes = rng.integers(-127, 128, (out, taken), dtype=np.int8)
        if kind == "fp32":
            return file.weight(f"w{out}", np.float32, codes.shape, [codes.astype(np.float32) * 1e-4])
        scales = np.full(out, 1e-4, np.float32)
        return replace(file.weight(f"w{out}", np.int8, codes.shape, [codes]), scales=scales)

    def build(file: LitertFile, s: Signature, x: Sequence[Value]) -> Value:
        value = x[0]
        # Two are stored at most: the engine packs what is stored once for each operator that reads it.
        stored = [weight(file, sizes[(i + 1) % 2], sizes[i % 2]) for i in range(min(count, len(sizes)))]
        for i in range(count):
            out = sizes[(i + 1) % 2]
            inputs = [value, s.use(stored[i % 2])]
            value = s.op("FULLY_CONNECTED", inputs, (rows, out), _FULLY_CONNECTED[kind], keepNumDims=True)
            for operator in ("MAXIMUM", "MINIMUM") * 2 if small else ():  # values stay what they are
                value = s.op(operator, [value, value], value.shape)
        return value

    return _run([(rows, inner)], build, threads)


def _scores(rows: int, threads: int) -> tuple[int, Build]:
    """Queries of one key head times its keys; multiply-accumulates, and the probe."""
    keys = max(16, rows // _GROUP)

    def build(_: LitertFile, s: Signature, x: Sequence[Value]) -> Value:
        return s.op("BATCH_MATMUL", x, (1, rows, keys), adjY=True)

    return rows * _HEAD * keys, partial(_run, [(1, rows, _HEAD), (1, keys, _HEAD)], build, threads)


def _run(shapes: Sequence[tuple[int, ...]], build: Operators, threads: int) -> Run:
    """A file of what `build` makes of inputs of these shapes."""
    from ai_edge_litert.interpreter import Interpreter

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.tflite"
        with (Path(folder) / "weights").open("w+b") as data:
            file = LitertFile(data, lambda _: None)
            signature = file.signature("probe")
            inputs = [signature.input(f"x{i}", shape, FLOAT32) for i, shape in enumerate(shapes)]
            signature.output("y", build(file, signature, inputs))
            file.write(path, "probe")
        with quiet():
            opened: Any = Interpreter(model_content=path.read_bytes(), num_threads=threads)
            opened.allocate_tensors()
    rng = np.random.default_rng(0)
    for details in opened.get_input_details():
        opened.set_tensor(details["index"], rng.standard_normal(details["shape"]).astype(np.float32))
    invoke: Run = opened.invoke
    return invoke
