"""Counts the work of an ONNX graph at a length, node by node, from the file alone: nothing is run.

Shapes depend on the length by arithmetic inside the graph, so integers whose values follow from the length
are computed by onnx's own reference operators, and other shapes by its own inference; ONNX Runtime's
operators, which onnx does not know, are told here. Reads no weights.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.shape_inference import infer_node_outputs

from embedding_runtime.engines.onnx_files.four_bits import with_eight_bits
from embedding_validate.compare.cost.work import Kind, Step, Work

_LARGEST_VALUE = 1 << 16
_SAME = ("SimplifiedLayerNormalization", "RotaryEmbedding")
_BITS: dict[int, int] = {TensorProto.INT4: 4, TensorProto.UINT4: 4}
_KINDS: dict[str, Kind] = {
    "Softmax": "softmax",
    "Gelu": "gelu",
    "SimplifiedLayerNormalization": "norm",
    "QuantizeLinear": "quantize",
    "RotaryEmbedding": "arithmetic",
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Max", "Min", "Tanh", "Where", "Cos", "Sin"), "arithmetic"),
    **dict.fromkeys(("ReduceMax", "ReduceMin", "ReduceSum", "ReduceL2", "Cast"), "arithmetic"),
}
# These give another name to what is there.
_FREE = ("Reshape", "Squeeze", "Unsqueeze", "Identity", "Shape")


class _Tensor:
    """A shape, an ONNX element type, and the value where the length alone decides it."""

    def __init__(
        self, shape: tuple[int, ...], kind: int, value: NDArray[Any] | None = None, weight: bool = False
    ) -> None:
        self.shape, self.kind, self.value, self.weight = shape, kind, value, weight

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        bits = _BITS.get(self.kind) or 8 * helper.tensor_dtype_to_np_dtype(self.kind).itemsize
        return self.elements * bits // 8


def work_of(path: Path) -> Callable[[int], Work]:
    """Read a graph once; the function gives its work for one text of so many tokens.

    It raises ValueError if the graph has an operator whose result's shape cannot be told from the file.
    """
    run = with_eight_bits(path, path)  # as the runtime runs it
    whole = run if isinstance(run, bytes) else path.read_bytes()
    model = onnx.load_from_string(whole)
    stored = {t.name: _stored(t) for t in model.graph.initializer}
    inputs = [i.name for i in model.graph.input if i.name not in stored]
    opsets = {o.domain: o.version for o in model.opset_import}

    def work(tokens: int) -> Work:
        known = stored | {name: _Tensor((1, tokens), TensorProto.INT64) for name in inputs}
        return Work(tokens, tuple(_steps(model.graph.node, known, opsets)))

    return work


def _stored(tensor: TensorProto) -> _Tensor:
    inside = tensor.data_location != TensorProto.EXTERNAL
    small = inside and math.prod(tensor.dims) <= _LARGEST_VALUE
    value = np.asarray(numpy_helper.to_array(tensor)) if small else None
    return _Tensor(tuple(tensor.dims), tensor.data_type, value, weight=True)


def _steps(nodes: Any, known: dict[str, _Tensor], opsets: Mapping[str, int]) -> Iterator[Step]:
    for node in nodes:
        if node.op_type == "Scan":
            yield from _scanned(node, known, opsets)
            continue
        inputs = [known[name] for name in node.input if name]
        outputs = _outputs(node, known, opsets)
        known |= dict(zip(node.output, outputs, strict=True))
        if all(i.weight for i in inputs):  # an engine does this once, when it opens the graph
            for made in outputs:
                made.weight = True
        elif outputs[0].value is None and node.op_type not in _FREE:
            yield _step(node, inputs, outputs)


def _outputs(node: Any, known: Mapping[str, _Tensor], opsets: Mapping[str, int]) -> list[_Tensor]:
    inputs = [known[name] for name in node.input if name]
    if node.op_type == "Shape":
        start = next((a.i for a in node.attribute if a.name == "start"), 0)
        end = next((a.i for a in node.attribute if a.name == "end"), len(inputs[0].shape))
        value = np.array(inputs[0].shape[start:end], np.int64)
        return [_Tensor(value.shape, TensorProto.INT64, value)]
    if all(i.value is not None for i in inputs) and node.domain == "":
        feeds = {name: known[name].value for name in node.input if name}
        values = [np.asarray(v) for v in ReferenceEvaluator(node).run(None, feeds)]
        if all(v.size <= _LARGEST_VALUE for v in values):
            return [_Tensor(v.shape, helper.np_dtype_to_tensor_dtype(v.dtype), v) for v in values]
    if node.op_type in _SAME:
        return [_Tensor(inputs[0].shape, inputs[0].kind)]
    if node.op_type == "MatMulIntegerToFloat":
        shape = np.broadcast_shapes(inputs[0].shape[:-2], inputs[1].shape[:-2])
        return [_Tensor((*shape, inputs[0].shape[-2], inputs[1].shape[-1]), TensorProto.FLOAT)]
    if node.op_type == "MatMulNBits":
        return [_Tensor((*inputs[0].shape[:-1], _attribute(node, "N")), TensorProto.FLOAT)]
    return _inferred(node, known, opsets)


def _inferred(node: Any, known: Mapping[str, _Tensor], opsets: Mapping[str, int]) -> list[_Tensor]:
    schema = onnx.defs.get_schema(node.op_type, opsets[node.domain], node.domain)
    types = {n: helper.make_tensor_type_proto(known[n].kind, known[n].shape) for n in node.input if n}
    values = {n: numpy_helper.from_array(v, n) for n in node.input if n and (v := known[n].value) is not None}
    found = infer_node_outputs(schema, node, types, values)
    tensors = []
    for name in node.output:
        kind = found[name].tensor_type
        dims = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
        if not kind.HasField("shape") or None in dims:
            raise ValueError(
                f"the shape of {name}, which {node.op_type} gives, cannot be told from the graph"
            )
        tensors.append(_Tensor(tuple(d for d in dims if d is not None), kind.elem_type))
    return tensors


def _scanned(node: Any, known: dict[str, _Tensor], opsets: Mapping[str, int]) -> Iterator[Step]:
    """The body's steps, once for each entry of the scanned inputs' first axis."""
    body, scanned = next(a.g for a in node.attribute if a.name == "body"), [known[n] for n in node.input]
    entries = {i.name: _Tensor(t.shape[1:], t.kind) for i, t in zip(body.input, scanned, strict=True)}
    inner = known | entries
    steps, times = tuple(_steps(body.node, inner, opsets)), scanned[0].shape[0]
    for _ in range(times):
        yield from steps
    for name, made in zip(node.output, body.output, strict=True):
        known[name] = _Tensor((times, *inner[made.name].shape), inner[made.name].kind)


def _step(node: Any, inputs: list[_Tensor], outputs: list[_Tensor]) -> Step:
    weights = [i for i in inputs if i.weight]
    computed = sum(t.bytes for t in (*inputs, *outputs) if not t.weight)
    read = sum(w.bytes for w in weights)
    if node.op_type == "Gather":  # of a table, the rows that are asked for
        read = outputs[0].bytes if inputs[0].weight else 0
        computed = computed if not inputs[0].weight else outputs[0].bytes
    if node.op_type == "RotaryEmbedding":  # of its tables, a row for each token
        read = sum(w.bytes // w.shape[0] * inputs[0].shape[1] for w in weights if len(w.shape) == 2)
    written = sum(t.elements for t in outputs)
    left = inputs[0]
    if node.op_type == "MatMulNBits":
        inner, columns = _attribute(node, "K"), _attribute(node, "N")
        rows = left.elements // inner
        return Step(node.op_type, "int4", rows * inner * columns, rows, read, written, computed)
    if node.op_type in ("MatMul", "MatMulIntegerToFloat"):
        matrix = inputs[1] if inputs[1].weight else left if left.weight else None
        kind: Kind = "scores" if matrix is None else "fp32"
        if matrix is not None and matrix.kind in (TensorProto.INT8, TensorProto.UINT8):
            kind = "int8"
        inner, rows = left.shape[-1], outputs[0].elements // outputs[0].shape[-1]
        return Step(node.op_type, kind, outputs[0].elements * inner, rows, read, written, computed)
    return Step(node.op_type, _KINDS.get(node.op_type, "moving"), 0, 0, read, written, computed)


def _attribute(node: Any, name: str) -> int:
    return int(next(a.i for a in node.attribute if a.name == name))
