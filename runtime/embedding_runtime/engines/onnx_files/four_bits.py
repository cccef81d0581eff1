"""Gives an ONNX graph's 4-bit matrices to products of 8 bits, where the graph says that both are the same.

The exporter writes such a product in float32, of whole numbers, so that other programs run it in little
memory; 8-bit kernels give the same sums in half the time. Its nodes are known by their names. Knows nothing
of engines; built on `tables`, because the runtime does without the onnx package.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.engines.onnx_files.links import data_beside
from embedding_runtime.engines.onnx_files.seven_bits import ACTIVATION_ZERO
from embedding_runtime.engines.onnx_files.tables import (
    BYTES,
    GRAPH_INITIALIZER,
    GRAPH_NODE,
    NODE_INPUT,
    NODE_OP_TYPE,
    TENSOR_DIMS,
    TENSOR_RAW,
    Field,
    as_bytes,
    as_text,
    fields_of,
    graph_edited,
    table_of,
    tensor_name,
    tensor_written,
    written,
)
from embedding_runtime.errors import BundleError

# Ends of names: a product without its outputs' scales, what it takes, and what is made of that.
_PRODUCTS, _WHOLE, _WIDE = ":products", ":whole", ":wide"
# What a 4-bit matrix is stored as.
_PARTS = ("int4", "zero", "step")
_NODE_OUTPUT, _NODE_NAME, _NODE_DOMAIN = 2, 3, 7
# What all such products take: 1 for the scale of activations, which is multiplied elsewhere, and their zero,
# where the graph has no name for it (older versions' graphs).
_ONE, _ZERO = "eight_bits:one", "eight_bits:zero"


def has_four_bits(model: bytes) -> bool:
    """Whether an ONNX file has products of 4 bits that 8 bits may stand for."""
    return _PRODUCTS.encode() in model


def with_eight_bits(model: Path | bytes, named: Path) -> Path | bytes:
    """A graph, or the bytes of one that lies at `named`, with its 4-bit products as products of 8 bits.

    What has none, or is no file, stays what it is.

    Raises:
        BundleError: it is not an ONNX file, or a matrix is not where it should be.
    """
    if isinstance(model, Path) and not model.is_file():
        return model
    whole = model.read_bytes() if isinstance(model, Path) else model
    if not has_four_bits(whole):
        return model
    try:
        folder = data_beside(named)
        return graph_edited(whole, lambda graph: b"".join(written(*f) for f in _edited(graph, folder)))
    except (ValueError, OSError) as e:
        raise BundleError(f"The 4-bit matrices of {named} cannot be read ({e}). Export it again.") from e


def _edited(graph: bytes, folder: Path) -> Iterator[Field]:
    """The fields of a GraphProto: of a 4-bit product only the node that multiplies the scales is kept."""
    fields = list(fields_of(graph))
    stored = [as_bytes(value) for number, _, value in fields if number == GRAPH_INITIALIZER]
    tensors = {tensor_name(tensor): tensor for tensor in stored}
    codes: dict[str, str] = {}
    zero = ACTIVATION_ZERO if ACTIVATION_ZERO in tensors else _ZERO
    for number, wire, value in fields:
        if number == GRAPH_INITIALIZER:
            stem, _, part = tensor_name(as_bytes(value)).rpartition(":")
            if part not in _PARTS or f"{stem}:step" not in tensors or _is_table(tensors, stem):
                yield number, wire, value
        elif number == GRAPH_NODE:
            inputs, output, kind = _node(as_bytes(value))
            if output.endswith(_PRODUCTS):
                codes[output] = inputs[0].removesuffix(_WHOLE)
            elif kind == "Mul" and inputs[0] in codes:
                stem = inputs[0].removesuffix(_PRODUCTS)
                operands = (codes[inputs[0]], f"{stem}:int8", _ONE, inputs[1], zero)
                yield GRAPH_NODE, BYTES, _product(operands, output)
                yield GRAPH_INITIALIZER, BYTES, _eight_bits(tensors, stem, folder)
            elif not output.endswith((_WHOLE, _WIDE)):
                yield number, wire, value
        else:
            yield number, wire, value
    yield GRAPH_INITIALIZER, BYTES, tensor_written(_ONE, np.array(1, np.float32))
    if zero == _ZERO:
        yield GRAPH_INITIALIZER, BYTES, tensor_written(_ZERO, np.array(128, np.uint8))


def _is_table(tensors: dict[str, bytes], stem: str) -> bool:
    """Whether a tensor's scales are a column, as only those of rows that are looked up are."""
    return len(_shape(tensors[f"{stem}:scale"])) > 1


def _eight_bits(tensors: dict[str, bytes], stem: str, folder: Path) -> bytes:
    """A TensorProto of (codes - zeros) * steps, int8 [in, out]."""
    packed, zeros, steps = (_values(tensors[f"{stem}:{part}"], folder) for part in _PARTS)
    rows, count = steps.shape
    codes = _pairs(packed.reshape(rows, -1)).reshape(rows, count, -1)
    zeros = _pairs(zeros)[:, :count, None]
    whole = (codes.view(np.int8) - zeros.view(np.int8)) * steps.view(np.int8)[:, :, None]
    return tensor_written(f"{stem}:int8", np.ascontiguousarray(whole.reshape(rows, -1).T))


def _pairs(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two 4-bit numbers a byte, the earlier one low."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)


def _values(tensor: bytes, folder: Path) -> NDArray[np.uint8]:
    """The values of a uint8 TensorProto, in the file or beside it."""
    table = table_of(tensor)
    if table is None:
        raw = next(as_bytes(v) for number, _, v in fields_of(tensor) if number == TENSOR_RAW)
        return np.frombuffer(raw, np.uint8).reshape(_shape(tensor))
    with (folder / table.file).open("rb") as file:
        file.seek(table.offset)
        held = min(table.size, os.fstat(file.fileno()).st_size)
        return np.frombuffer(file.read(held), np.uint8).reshape(table.shape)


def _shape(tensor: bytes) -> tuple[int, ...]:
    return tuple(v for number, _, v in fields_of(tensor) if number == TENSOR_DIMS and isinstance(v, int))


def _node(node: bytes) -> tuple[list[str], str, str]:
    """Inputs, the first output, and the operator of a NodeProto."""
    fields = list(fields_of(node))
    inputs = [as_text(v) for number, _, v in fields if number == NODE_INPUT]
    output = next((as_text(v) for number, _, v in fields if number == _NODE_OUTPUT), "")
    return inputs, output, next(as_text(v) for number, _, v in fields if number == NODE_OP_TYPE)


def _product(inputs: tuple[str, ...], output: str) -> bytes:
    parts = [
        *((NODE_INPUT, name) for name in inputs),
        (_NODE_OUTPUT, output),
        (_NODE_NAME, f"node:{output}"),
        (NODE_OP_TYPE, "MatMulIntegerToFloat"),
        (_NODE_DOMAIN, "com.microsoft"),
    ]
    return b"".join(written(number, BYTES, text.encode()) for number, text in parts)
