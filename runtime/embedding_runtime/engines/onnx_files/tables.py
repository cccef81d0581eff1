"""Takes lookup tables out of an ONNX file, so that they can be fed from the bundle's memory-mapped data.

A table is a tensor of external data that only `Gather` reads. Fed as an input it costs nothing per run, and a
copy of the graph need not hold it (the token table is two thirds of the weights). This module reads and
writes just enough of protobuf's wire format and of onnx.proto for that, because the runtime does not depend
on the onnx package.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.errors import BundleError

_VARINT, BYTES = 0, 2
_FIXED = {1: 8, 5: 4}
# TensorProto.DataType of the types that numpy has too.
_DTYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 10: "float16"}
# Field numbers of onnx.proto.
_MODEL_GRAPH = 7
GRAPH_NODE, GRAPH_INITIALIZER, _GRAPH_INPUT = 1, 5, 11
NODE_INPUT, NODE_OP_TYPE, _NODE_ATTRIBUTE = 1, 4, 5
_ATTRIBUTE_GRAPH = 6
TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, TENSOR_RAW, _TENSOR_EXTERNAL = 1, 2, 8, 9, 13

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
    except ValueError as e:
        raise BundleError(f"The graph is not an ONNX file ({e}). Export the bundle again.") from e


def graph_edited(model: bytes, edit: Callable[[bytes], bytes]) -> bytes:
    """The ONNX file `model` with its GraphProto changed by `edit`.

    Raises:
        ValueError: it has none, or `edit` does not find in it what it looks for.
    """
    try:
        fields = list(fields_of(model))
        at = next(i for i, (number, _, _) in enumerate(fields) if number == _MODEL_GRAPH)
        fields[at] = (_MODEL_GRAPH, BYTES, edit(as_bytes(fields[at][2])))
        return b"".join(written(*f) for f in fields)
    # A generator turns StopIteration into RuntimeError; numbers of a damaged file may be of any size.
    except (StopIteration, RuntimeError, LookupError, OverflowError, TypeError) as e:
        raise ValueError(f"a field is missing or out of range: {e!r}") from e


def inside(name: str) -> bool:
    """Whether the name of a file stays inside the graph's folder."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


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
        fields = {number: text for number, _, text in fields_of(value)}
        if as_text(fields[1]) != "location":
            return value
        new = rename(as_text(fields.get(2, b"")))
        return written(1, BYTES, b"location") + written(2, BYTES, new.encode())

    def tensor(value: bytes) -> bytes:
        return b"".join(
            written(n, wire, entry(as_bytes(v)) if n == _TENSOR_EXTERNAL else v)
            for n, wire, v in fields_of(value)
        )

    return b"".join(
        written(n, wire, tensor(as_bytes(v)) if n == GRAPH_INITIALIZER else v)
        for n, wire, v in fields_of(graph)
    )


def _graph_without_tables(graph: bytes) -> tuple[bytes, tuple[Table, ...]]:
    fields = list(fields_of(graph))
    tables: dict[str, Table] = {}
    gathered = _only_gathered([as_bytes(v) for number, _, v in fields if number == GRAPH_NODE])
    rest = []
    for number, wire, value in fields:
        table = table_of(as_bytes(value)) if number == GRAPH_INITIALIZER else None
        if table and table.name in gathered:
            tables[table.name] = table
        else:
            rest.append((number, wire, value))
    rest += [(_GRAPH_INPUT, BYTES, _value_info(t)) for t in tables.values()]
    return b"".join(written(*f) for f in rest), tuple(tables.values())


def _only_gathered(nodes: list[bytes]) -> set[str]:
    """Names that are read only as the data of a Gather; none if nodes have graphs of their own."""
    data: set[str] = set()
    other: set[str] = set()
    for node in nodes:
        fields = list(fields_of(node))
        if any(
            a[0] == _ATTRIBUTE_GRAPH
            for n, _, v in fields
            if n == _NODE_ATTRIBUTE
            for a in fields_of(as_bytes(v))
        ):
            return set()
        inputs = [as_text(v) for number, _, v in fields if number == NODE_INPUT]
        gather = any(number == NODE_OP_TYPE and as_text(v) == "Gather" for number, _, v in fields)
        data |= set(inputs[:1]) if gather else set()
        other |= set(inputs[1:]) if gather else set(inputs)
    return data - other


def table_of(tensor: bytes) -> Table | None:
    """A tensor with external data of a type that numpy has, else None.

    Raises:
        ValueError: its data lies outside the graph's folder.
    """
    dims: list[int] = []
    name, dtype = "", 0
    external: dict[str, str] = {}
    for number, wire, value in fields_of(tensor):
        if number == TENSOR_DIMS:
            dims += [int(value)] if wire == _VARINT else list(_varints(as_bytes(value)))
        elif number == _TENSOR_TYPE:
            dtype = int(value)
        elif number == _TENSOR_NAME:
            name = as_text(value)
        elif number == _TENSOR_EXTERNAL:
            entry = {n: as_text(v) for n, _, v in fields_of(as_bytes(value))}
            external[entry[1]] = entry.get(2, "")
    if "location" not in external or dtype not in _DTYPES:
        return None
    if not inside(external["location"]):
        raise ValueError(f"{name} is said to lie in {external['location']!r}, outside its folder")
    return Table(name, _DTYPES[dtype], tuple(dims), external["location"], int(external.get("offset", "0")))


def tensor_name(tensor: bytes) -> str:
    """The name of a TensorProto; StopIteration if it has none."""
    return next(as_text(v) for number, _, v in fields_of(tensor) if number == _TENSOR_NAME)


def tensor_written(name: str, values: NDArray[np.generic]) -> bytes:
    """A TensorProto that holds its values itself."""
    dtype = next(number for number, known in _DTYPES.items() if known == values.dtype.name)
    dims = b"".join(written(TENSOR_DIMS, _VARINT, n) for n in values.shape)
    named = written(_TENSOR_TYPE, _VARINT, dtype) + written(_TENSOR_NAME, BYTES, name.encode())
    return dims + named + written(TENSOR_RAW, BYTES, values.tobytes())


def _value_info(table: Table) -> bytes:
    """ValueInfoProto {name, type {tensor_type {elem_type, shape {dim {dim_value}}}}}."""
    dtype = next(number for number, name in _DTYPES.items() if name == table.dtype)
    shape = b"".join(written(1, BYTES, written(1, _VARINT, d)) for d in table.shape)
    tensor_type = written(1, _VARINT, dtype) + written(2, BYTES, shape)
    return written(1, BYTES, table.name.encode()) + written(2, BYTES, written(1, BYTES, tensor_type))


def fields_of(message: bytes) -> Iterator[Field]:
    """(field number, wire type, value) in order; the value is an int for varints, else the bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield number, wire, value
            continue
        if wire == BYTES:
            length, at = _varint(message, at)
        elif wire in _FIXED:
            length = _FIXED[wire]
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + length > len(message):
            raise ValueError(f"a field ends past byte {len(message)}")
        yield number, wire, message[at : at + length]
        at += length


def written(number: int, wire: int, value: bytes | int) -> bytes:
    tag = _encoded(number << 3 | wire)
    if isinstance(value, int):
        return tag + _encoded(value)
    return tag + (_encoded(len(value)) if wire == BYTES else b"") + value


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


def as_bytes(value: bytes | int) -> bytes:
    if isinstance(value, int):
        raise ValueError(f"the number {value} where a message was expected")
    return value


def as_text(value: bytes | int) -> str:
    return as_bytes(value).decode("utf-8")
