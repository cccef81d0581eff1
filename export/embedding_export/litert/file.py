"""Builds a LiteRT (TFLite) file operator by operator: several signatures over one set of weights.

It knows only the file format (a FlatBuffer); `litert.ops` decides what goes into an operator. Weights are
streamed behind the FlatBuffer's tables, and they and their scales are stored once, whatever the number of
signatures.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from embedding_export.errors import ExportError

# Vectors of weights begin at multiples of this: the format asks for 16, a cache line serves engines better.
ALIGNMENT = 64
# Offsets inside a FlatBuffer are 32 bits wide, and its readers take them as signed.
LARGEST_FILE = 2**31 - 1
FILE_IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3
# Where `Buffer.data` lies in a Buffer's vtable (its first field).
_BUFFER_DATA = 4
_COPIED = 1 << 20

Array = NDArray[Any]
Vector = tuple[int, Callable[[BinaryIO], None]]
FLOAT32, INT32, INT4 = schema.TensorType.FLOAT32, schema.TensorType.INT32, schema.TensorType.INT4
BOOL = schema.TensorType.BOOL
TYPES = {
    np.dtype(np.float32): FLOAT32,
    np.dtype(np.float16): schema.TensorType.FLOAT16,
    np.dtype(np.int32): INT32,
    np.dtype(np.int8): schema.TensorType.INT8,
}


@dataclass(frozen=True)
class Stored:
    """A constant of the file: its buffer, and the fields of a tensor that uses it.

    `scales` are per row (an array), or per block of `block` weights (a stored float16 tensor).
    """

    name: str
    buffer: int
    type: int
    shape: tuple[int, ...]
    scales: "NDArray[np.float32] | Stored | None" = None
    block: int = 0


@dataclass(frozen=True)
class Value:
    """A tensor of one signature."""

    index: int
    shape: tuple[int, ...]
    type: int = FLOAT32


class LitertFile:
    """A file under construction."""

    def __init__(self, data: BinaryIO, progress: Callable[[int], None]) -> None:
        """Weights go to `data` until the file is put together; `progress` gets bytes written."""
        self._data, self._progress = data, progress
        self._spans: list[tuple[int, int]] = [(0, 0)]  # buffer 0 is the empty one, by convention
        self._constants: dict[bytes, Stored] = {}
        self._quantizations: dict[str, Packed] = {}
        self._codes: dict[tuple[int, int], int] = {}
        self._signatures: list[Signature] = []

    def weight(self, name: str, dtype: Any, shape: Sequence[int], blocks: Iterable[Array]) -> Stored:
        """Store a tensor given as consecutive blocks of its rows."""
        dtype = np.dtype(dtype)
        return self._store(name, TYPES[dtype], shape, (np.ascontiguousarray(b, dtype) for b in blocks))

    def int4(self, name: str, shape: Sequence[int], packed: Iterable[NDArray[np.uint8]]) -> Stored:
        """Store a tensor of signed 4-bit codes, two to a byte, the earlier one low."""
        return self._store(name, INT4, shape, packed)

    def constant(self, value: Array) -> Stored:
        """A constant; equal ones are stored once."""
        value = np.ascontiguousarray(value)
        key = repr((value.dtype.str, value.shape)).encode() + value.tobytes()
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self._constants[key] = self.weight(name, value.dtype, value.shape, [value])
        return self._constants[key]

    def signature(self, name: str) -> "Signature":
        """Begin another signature."""
        self._signatures.append(Signature(self, name))
        return self._signatures[-1]

    def code(self, operator: int, version: int) -> int:
        """The index of an operator code."""
        return self._codes.setdefault((operator, version), len(self._codes))

    def quantization(self, stored: Stored) -> Any:
        """The quantization fields of a tensor; shared by all signatures if the format allows it."""
        if stored.name not in self._quantizations:
            self._quantizations[stored.name] = Packed(_per_row(stored))
        return self._quantizations[stored.name]

    def write(self, path: Path, description: str) -> None:
        """Write the file.

        Raises:
            ExportError: the file would be larger than the format allows.
        """
        model = schema.ModelT(version=SCHEMA_VERSION, description=description)
        model.operatorCodes = [_operator_code(*code) for code in self._codes]
        model.subgraphs = [s.subgraph() for s in self._signatures]
        model.signatureDefs = [s.definition(i) for i, s in enumerate(self._signatures)]
        write_model(
            path, model, [(length, partial(self._copy, start, length)) for start, length in self._spans]
        )

    def _store(self, name: str, kind: int, shape: Sequence[int], blocks: Iterable[Array]) -> Stored:
        start = self._data.tell()
        for block in blocks:
            self._data.write(np.ascontiguousarray(block).data)
            self._progress(block.nbytes)
        self._spans.append((start, self._data.tell() - start))
        return Stored(name, len(self._spans) - 1, kind, tuple(shape))

    def _copy(self, start: int, length: int, file: BinaryIO) -> None:
        """Copy a stored tensor to a file."""
        self._data.seek(start)
        for left in range(length, 0, -_COPIED):
            file.write(self._data.read(min(left, _COPIED)))


def write_model(path: Path, model: Any, vectors: Sequence[Vector]) -> None:
    """Write a model whose buffers are `vectors`, in their order: the length in bytes of each, and what writes
    it. They come behind the FlatBuffer's tables.

    Raises:
        ExportError: the file would be larger than the format allows.
    """
    # One byte stands for every vector; afterwards the tables are pointed to the vectors themselves.
    holder = np.zeros(1, np.uint8)
    model.buffers = [schema.BufferT(data=holder if length else None) for length, _ in vectors]
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=FILE_IDENTIFIER)
    head = bytes(builder.Output())
    size = len(head) + sum(length + 2 * ALIGNMENT for length, _ in vectors)
    if size > LARGEST_FILE:
        raise ExportError(
            f"The weights take {size / 1e9:.2f} GB, and a LiteRT file holds at most "
            f"{LARGEST_FILE / 1e9:.2f} GB. Export a smaller precision, such as int8."
        )
    tables = schema.Model.GetRootAs(head)
    with path.open("wb") as file:
        file.write(head)
        places = [_append(file, vector) for vector in vectors]
        for i, place in enumerate(places):
            if place is not None:
                field = tables.Buffers(i)._tab
                at = field.Pos + field.Offset(_BUFFER_DATA)
                file.seek(at)
                file.write(struct.pack("<I", place - at))


def _append(file: BinaryIO, vector: Vector) -> int | None:
    """Append a vector to the file; return the position of its length field."""
    length, write = vector
    if length == 0:
        return None
    place = -(-(file.tell() + 4) // ALIGNMENT) * ALIGNMENT - 4
    file.write(b"\0" * (place - file.tell()) + struct.pack("<I", length))
    write(file)
    return place


class Signature:
    """One function of the file: a subgraph with its inputs and outputs by name."""

    def __init__(self, file: LitertFile, name: str) -> None:
        self.name, self._file = name, file
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._used: dict[str, Value] = {}
        self._inputs: dict[str, Value] = {}
        self._outputs: dict[str, Value] = {}

    def input(self, name: str, shape: Sequence[int], kind: int) -> Value:
        """An input."""
        self._inputs[name] = self._tensor(name, shape, kind)
        return self._inputs[name]

    def output(self, name: str, value: Value) -> None:
        """Make a tensor an output, under a name."""
        self._tensors[value.index].name = name
        self._outputs[name] = value

    def use(self, stored: Stored) -> Value:
        """A stored constant as a tensor of this signature."""
        if stored.name not in self._used:
            value = self._tensor(stored.name, stored.shape, stored.type, stored.buffer)
            if isinstance(stored.scales, Stored):
                details = schema.BlockwiseQuantizationT(
                    scales=self.use(stored.scales).index, zeroPoints=-1, blockSize=stored.block
                )
                self._tensors[value.index].quantization = schema.QuantizationParametersT(
                    detailsType=schema.QuantizationDetails.BlockwiseQuantization, details=details
                )
            elif stored.scales is not None:
                self._tensors[value.index].quantization = self._file.quantization(stored)
            self._used[stored.name] = value
        return self._used[stored.name]

    def constant(self, value: Array) -> Value:
        """A constant."""
        return self.use(self._file.constant(value))

    def ints(self, *values: int) -> Value:
        """A constant of shape (len(values),), int32: axes, shapes, indices."""
        return self.constant(np.array(values, np.int32))

    def op(
        self,
        operator: str,
        inputs: Sequence[Value],
        shape: Sequence[int],
        version: int = 1,
        kind: int = FLOAT32,
        **options: Any,
    ) -> Value:
        """Add an operator of one output (its name and options in schema.fbs)."""
        output = self._tensor(f"{operator}_{len(self._tensors)}", shape, kind)
        kinds = _OPTIONS.get(operator)
        code = self._file.code(getattr(schema.BuiltinOperator, operator), version)
        self._operators.append(
            schema.OperatorT(
                opcodeIndex=code,
                inputs=[v.index for v in inputs],
                outputs=[output.index],
                builtinOptionsType=getattr(schema.BuiltinOptions, kinds) if kinds else 0,
                builtinOptions=getattr(schema, f"{kinds}T")(**options) if kinds else None,
            )
        )
        return output

    def look_up(self, ids: Value, table: Stored, version: int) -> Value:
        """Rows of a table [rows, columns] for ids, int32 [S]: float32 [S, columns]."""
        return self.op("EMBEDDING_LOOKUP", [ids, self.use(table)], (ids.shape[0], table.shape[1]), version)

    def subgraph(self) -> Any:
        """The signature's subgraph as the file holds it."""
        return schema.SubGraphT(
            name=self.name,
            tensors=self._tensors,
            operators=self._operators,
            inputs=[v.index for v in self._inputs.values()],
            outputs=[v.index for v in self._outputs.values()],
        )

    def definition(self, index: int) -> Any:
        """The names by which callers use the signature."""
        return schema.SignatureDefT(
            signatureKey=self.name,
            subgraphIndex=index,
            inputs=[schema.TensorMapT(name=n, tensorIndex=v.index) for n, v in self._inputs.items()],
            outputs=[schema.TensorMapT(name=n, tensorIndex=v.index) for n, v in self._outputs.items()],
        )

    def _tensor(self, name: str, shape: Sequence[int], kind: int, buffer: int = 0) -> Value:
        self._tensors.append(
            schema.TensorT(name=name, shape=list(shape), type=kind, buffer=buffer, hasRank=True)
        )
        return Value(len(self._tensors) - 1, tuple(shape), kind)


_OPTIONS = {
    "ADD": "AddOptions",
    "BATCH_MATMUL": "BatchMatMulOptions",
    "CAST": "CastOptions",
    "CONCATENATION": "ConcatenationOptions",
    "DIV": "DivOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "GELU": "GeluOptions",
    "MAXIMUM": "MaximumMinimumOptions",
    "MEAN": "ReducerOptions",
    "MUL": "MulOptions",
    "NOT_EQUAL": "NotEqualOptions",
    "PAD": "PadOptions",
    "RESHAPE": "ReshapeOptions",
    "SLICE": "SliceOptions",
    "SOFTMAX": "SoftmaxOptions",
    "SUB": "SubOptions",
    "SUM": "ReducerOptions",
    "TRANSPOSE": "TransposeOptions",
}


class Packed:
    """A FlatBuffer table that several others point to; packed once per builder."""

    def __init__(self, table: Any) -> None:
        self._table, self._offset = table, None

    def Pack(self, builder: Any) -> Any:
        if self._offset is None:
            self._offset = self._table.Pack(builder)
        return self._offset


def _per_row(stored: Stored) -> Any:
    """Symmetric quantization with one scale per row; engines require a zero point for each."""
    assert isinstance(stored.scales, np.ndarray)
    return schema.QuantizationParametersT(
        scale=stored.scales, zeroPoint=np.zeros(len(stored.scales), np.int64), quantizedDimension=0
    )


def _operator_code(operator: int, version: int) -> Any:
    return schema.OperatorCodeT(
        builtinCode=operator, deprecatedBuiltinCode=min(operator, 127), version=version
    )
