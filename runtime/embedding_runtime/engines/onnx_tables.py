"""Takes lookup tables out of an ONNX file, so that they can be fed from the bundle's memory-mapped data.

A table is a tensor of external data that only `Gather` reads. Fed as an input it costs nothing per run, and a
copy of the graph need not hold it (the token table is two thirds of the weights). This module reads and
writes just enough of protobuf's wire format and of onnx.proto for that, because the runtime does not depend
on the onnx package.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from embedding_runtime.errors import BundleError

_VARINT, _BYTES = 0, 2
_FIXED = {1: 8, 5: 4}
# TensorProto.DataType of the types that numpy has too.
_DTYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 10: "float16"}
# Field numbers of onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT = 1, 5, 11
_NODE_INPUT, _NODE_OP_TYPE, _NODE_ATTRIBUTE = 1, 4, 5
_ATTRIBUTE_GRAPH = 6
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_EXTERNAL = 1, 2, 8, 13

Field = tuple[int, int, bytes | int]


@dataclass(frozen=True)
class Table:
    """The place of a table's values: numpy dtype and shape at a byte offset of a file beside the graph."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    offset: int

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


def without_tables(model: bytes) -> tuple[bytes, tuple[Table, ...]]:
    """The ONNX file `model` with its tables as inputs, and those tables.

    Raises:
        BundleError: not an ONNX file.
    """
    try:
        tables: list[Table] = []

        def edit(graph: bytes) -> bytes:
            rest, removed = _graph_without_tables(graph)
            tables.extend(removed)
            return rest

        return graph_edited(model, edit), tuple(tables)
    except (StopIteration, IndexError, ValueError) as e:
        raise BundleError(f"The graph is not an ONNX file ({e}). Export the bundle again.") from e


def graph_edited(model: bytes, edit: Callable[[bytes], bytes]) -> bytes:
    """The ONNX file `model` with its GraphProto changed by `edit`; StopIteration if it has none."""
    fields = list(_fields(model))
    at = next(i for i, (number, _, _) in enumerate(fields) if number == _MODEL_GRAPH)
    fields[at] = (_MODEL_GRAPH, _BYTES, edit(_bytes(fields[at][2])))
    return b"".join(_field(*f) for f in fields)


def locations(model: bytes) -> set[str]:
    """Names of the files of external data that an ONNX file uses."""
    names: set[str] = set()

    def note(name: str) -> str:
        names.add(name)
        return name

    graph_edited(model, lambda graph: _located(graph, note))
    return names


def moved(graph: bytes, names: Mapping[str, str]) -> bytes:
    """A GraphProto whose external data lies in renamed files."""
    return _located(graph, lambda name: names.get(name, name))


def _located(graph: bytes, rename: Callable[[str], str]) -> bytes:
    """A GraphProto with every location of external data replaced by the result of `rename`."""

    def entry(value: bytes) -> bytes:
        fields = {number: text for number, _, text in _fields(value)}
        if _text(fields[1]) != "location":
            return value
        new = rename(_text(fields.get(2, b"")))
        return _field(1, _BYTES, b"location") + _field(2, _BYTES, new.encode())

    def tensor(value: bytes) -> bytes:
        return b"".join(
            _field(n, wire, entry(_bytes(v)) if n == _TENSOR_EXTERNAL else v) for n, wire, v in _fields(value)
        )

    return b"".join(
        _field(n, wire, tensor(_bytes(v)) if n == _GRAPH_INITIALIZER else v) for n, wire, v in _fields(graph)
    )


def _graph_without_tables(graph: bytes) -> tuple[bytes, tuple[Table, ...]]:
    fields = list(_fields(graph))
    tables: dict[str, Table] = {}
    gathered = _only_gathered([_bytes(v) for number, _, v in fields if number == _GRAPH_NODE])
    rest = []
    for number, wire, value in fields:
        table = _table(_bytes(value)) if number == _GRAPH_INITIALIZER else None
        if table and table.name in gathered:
            tables[table.name] = table
        else:
            rest.append((number, wire, value))
    rest += [(_GRAPH_INPUT, _BYTES, _value_info(t)) for t in tables.values()]
    return b"".join(_field(*f) for f in rest), tuple(tables.values())


def _only_gathered(nodes: list[bytes]) -> set[str]:
    """Names that are read only as the data of a Gather; none if nodes have graphs of their own."""
    data: set[str] = set()
    other: set[str] = set()
    for node in nodes:
        fields = list(_fields(node))
        if any(
            a[0] == _ATTRIBUTE_GRAPH for n, _, v in fields if n == _NODE_ATTRIBUTE for a in _fields(_bytes(v))
        ):
            return set()
        inputs = [_text(v) for number, _, v in fields if number == _NODE_INPUT]
        gather = any(number == _NODE_OP_TYPE and _text(v) == "Gather" for number, _, v in fields)
        data |= set(inputs[:1]) if gather else set()
        other |= set(inputs[1:]) if gather else set(inputs)
    return data - other


def _table(tensor: bytes) -> Table | None:
    """A tensor with external data of a type that numpy has, else None."""
    dims: list[int] = []
    name, dtype = "", 0
    external: dict[str, str] = {}
    for number, wire, value in _fields(tensor):
        if number == _TENSOR_DIMS:
            dims += [int(value)] if wire == _VARINT else list(_varints(_bytes(value)))
        elif number == _TENSOR_TYPE:
            dtype = int(value)
        elif number == _TENSOR_NAME:
            name = _text(value)
        elif number == _TENSOR_EXTERNAL:
            entry = {n: _text(v) for n, _, v in _fields(_bytes(value))}
            external[entry[1]] = entry.get(2, "")
    if "location" not in external or dtype not in _DTYPES:
        return None
    return Table(name, _DTYPES[dtype], tuple(dims), external["location"], int(external.get("offset", "0")))


def _value_info(table: Table) -> bytes:
    """ValueInfoProto {name, type {tensor_type {elem_type, shape {dim {dim_value}}}}}."""
    dtype = next(number for number, name in _DTYPES.items() if name == table.dtype)
    shape = b"".join(_field(1, _BYTES, _field(1, _VARINT, d)) for d in table.shape)
    tensor_type = _field(1, _VARINT, dtype) + _field(2, _BYTES, shape)
    return _field(1, _BYTES, table.name.encode()) + _field(2, _BYTES, _field(1, _BYTES, tensor_type))


def _fields(message: bytes) -> Iterator[Field]:
    """(field number, wire type, value) in order; the value is an int for varints, else the bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield number, wire, value
            continue
        if wire == _BYTES:
            length, at = _varint(message, at)
        elif wire in _FIXED:
            length = _FIXED[wire]
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + length > len(message):
            raise ValueError(f"a field ends past byte {len(message)}")
        yield number, wire, message[at : at + length]
        at += length


def _field(number: int, wire: int, value: bytes | int) -> bytes:
    tag = _encoded(number << 3 | wire)
    if isinstance(value, int):
        return tag + _encoded(value)
    return tag + (_encoded(len(value)) if wire == _BYTES else b"") + value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _varints(packed: bytes) -> Iterator[int]:
    at = 0
    while at < len(packed):
        value, at = _varint(packed, at)
        yield value


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _bytes(value: bytes | int) -> bytes:
    if isinstance(value, int):
        raise ValueError(f"the number {value} where a message was expected")
    return value


def _text(value: bytes | int) -> str:
    return _bytes(value).decode("utf-8")
