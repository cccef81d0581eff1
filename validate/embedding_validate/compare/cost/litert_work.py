"""Counts the work of one length of a LiteRT file, operator by operator, from the file alone.

A file's shapes are fixed; `ai_edge_litert` brings the format's schema. Reads no weights.
"""

import math
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from embedding_validate.compare.cost.work import Kind, Step, Work

_KINDS: dict[str, Kind] = {
    "SOFTMAX": "softmax",
    "GELU": "gelu",
    "RSQRT": "norm",
    "MEAN": "norm",
    **dict.fromkeys(("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "SUM", "SQRT", "TANH", "CAST"), "arithmetic"),
}
_FREE = ("RESHAPE",)


def work_of(path: Path) -> Callable[[int], Work]:
    """Read a file once; the function gives its work for a text of so many tokens, in the smallest length that
    holds it, and raises ValueError if every length is shorter."""
    from ai_edge_litert import schema_py_generated as schema

    with path.open("rb") as file:
        model = schema.Model.GetRootAs(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    lengths = {_length(graph): graph for graph in map(model.Subgraphs, range(model.SubgraphsLength()))}

    def work(tokens: int) -> Work:
        fitting = [length for length in lengths if length >= tokens]
        if not fitting:
            raise ValueError(f"{path.name} takes {max(lengths)} tokens at most, not {tokens}")
        return Work(tokens, tuple(_steps(schema, model, lengths[min(fitting)])))

    return work


def _length(graph: Any) -> int:
    """Tokens of the only input, int32 [1, S]."""
    return int(graph.Tensors(graph.Inputs(0)).Shape(1))


def _steps(schema: Any, model: Any, graph: Any) -> list[Step]:
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    bits = {schema.TensorType.INT4: 4, schema.TensorType.INT8: 8, schema.TensorType.BOOL: 8}
    bits |= {schema.TensorType.FLOAT16: 16}
    steps = []
    for i in range(graph.OperatorsLength()):
        operator = graph.Operators(i)
        code = model.OperatorCodes(operator.OpcodeIndex())
        name = names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        inputs = [_tensor(model, graph, operator.Inputs(j), bits) for j in range(operator.InputsLength())]
        output = _tensor(model, graph, operator.Outputs(0), bits)
        if name not in _FREE and any(not tensor.weight for tensor in inputs):
            steps.append(_step(name, inputs, output))
    return steps


class _Tensor:
    """A shape, bits of an element, and whether the file holds its values."""

    def __init__(self, shape: tuple[int, ...], bits: int, weight: bool) -> None:
        self.shape, self.bits, self.weight = shape, bits, weight

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * self.bits // 8


def _tensor(model: Any, graph: Any, index: int, bits: dict[int, int]) -> _Tensor:
    tensor = graph.Tensors(index)
    shape = tuple(int(tensor.Shape(i)) for i in range(tensor.ShapeLength()))
    stored = model.Buffers(tensor.Buffer()).DataLength() > 0
    return _Tensor(shape, bits.get(tensor.Type(), 32), stored)


def _step(name: str, inputs: list[_Tensor], output: _Tensor) -> Step:
    read = sum(tensor.bytes for tensor in inputs if tensor.weight)
    computed = output.bytes + sum(tensor.bytes for tensor in inputs if not tensor.weight)
    rows = output.elements // output.shape[-1]
    if name == "FULLY_CONNECTED":
        matrix = inputs[1]
        kinds: dict[int, Kind] = {4: "int4", 8: "int8"}
        kind = kinds.get(matrix.bits, "fp32")
        return Step(name, kind, rows * matrix.elements, rows, read, output.elements, computed)
    if name == "BATCH_MATMUL":
        inner = inputs[0].shape[-1]
        return Step(name, "scores", output.elements * inner, rows, read, output.elements, computed)
    if name == "EMBEDDING_LOOKUP":
        table = inputs[1]
        read = output.elements * table.bits // 8
        return Step(name, "moving", 0, 0, read, output.elements, output.bytes)
    if name == "SLICE":
        read = output.bytes if inputs[0].weight else 0
    return Step(name, _KINDS.get(name, "moving"), 0, 0, read, output.elements, computed)
