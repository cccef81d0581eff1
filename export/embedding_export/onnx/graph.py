"""Builds an ONNX graph node by node and streams its weights to one external data file.

It knows only the file format; `onnx.ops` decides what goes into a node.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

# The operators that ONNX Runtime adds to the standard ones.
MICROSOFT = "com.microsoft"
# Offsets of external tensors are multiples of this, so that an engine can map them (ONNX's external data
# rule).
ALIGNMENT = 4096
# Smaller constants stay inside the graph file.
INLINE_BYTES = 1024

Array = NDArray[Any]


class OnnxGraph:
    """A graph under construction; tensors are handled by name."""

    def __init__(self, data: BinaryIO, data_name: str, progress: Callable[[int], None]) -> None:
        """Weights go to `data`, which the graph file will call `data_name`; `progress` gets bytes written."""
        self._data, self._data_name, self._progress = data, data_name, progress
        self._nodes: list[onnx.NodeProto] = []
        self._within = ""
        self._initializers: dict[str, TensorProto] = {}
        self._constants: dict[bytes, str] = {}

    def node(self, op: str, *inputs: str, out: str | None = None, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output and return the output's name (`out`, or one made from the count)."""
        return self.nodes(
            op, *inputs, outs=(out or f"{self._within}{op}_{len(self._nodes)}",), domain=domain, **attributes
        )[0]

    def nodes(
        self, op: str, *inputs: str, outs: Sequence[str], domain: str = "", **attributes: Any
    ) -> Sequence[str]:
        """Add a node with several outputs, named by the caller."""
        self._nodes.append(
            helper.make_node(op, inputs, outs, name=f"node:{outs[0]}", domain=domain, **attributes)
        )
        return outs

    def scan(self, scanned: Sequence[tuple[str, int]], body: Callable[[Sequence[str]], str]) -> str:
        """Apply `body` to each entry along the first axis of the tensors `scanned` (name and type), one after
        the other, and stack the float32 results. `body` may use every tensor made before it, and must not
        name any itself.
        """
        outer, self._nodes, self._within = self._nodes, [], f"scan_{len(self._nodes)}/"
        entries = [f"{self._within}entry_{i}" for i in range(len(scanned))]
        made = body(entries)
        graph = helper.make_graph(
            self._nodes,
            f"{self._within}body",
            [helper.make_tensor_value_info(e, t, None) for e, (_, t) in zip(entries, scanned, strict=True)],
            [helper.make_tensor_value_info(made, TensorProto.FLOAT, None)],
        )
        self._nodes, self._within = outer, ""
        return self.node("Scan", *(name for name, _ in scanned), body=graph, num_scan_inputs=len(scanned))

    def constant(self, value: Array, name: str | None = None) -> str:
        """A constant; equal ones are stored once. One with a `name` of its own may be replaced by it."""
        value = np.asarray(value)
        if name is not None:
            return name if self.has(name) else self.weight(name, value.dtype, value.shape, [value])
        key = repr((value.dtype.str, value.shape)).encode() + value.tobytes()
        if key not in self._constants:
            name = f"constant_{hashlib.sha256(key).hexdigest()[:12]}"
            self._constants[key] = name
            self.weight(name, value.dtype, value.shape, [value])
        return self._constants[key]

    def ints(self, *values: int) -> str:
        """A constant of shape (len(values),), int64: axes, shapes, indices."""
        return self.constant(np.array(values, np.int64))

    def has(self, name: str) -> bool:
        """Whether a weight of this name is stored already."""
        return name in self._initializers

    def weight(self, name: str, dtype: Any, shape: Sequence[int], blocks: Iterable[Array]) -> str:
        """Store a tensor given as consecutive blocks of its rows."""
        dtype = np.dtype(dtype)
        tensor = TensorProto(name=name, dims=tuple(shape), data_type=helper.np_dtype_to_tensor_dtype(dtype))
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if size < INLINE_BYTES:
            tensor.raw_data = b"".join(np.ascontiguousarray(b, dtype).tobytes() for b in blocks)
        else:
            self._write_external(tensor, size, (np.ascontiguousarray(b, dtype) for b in blocks))
        self._initializers[name] = tensor
        return name

    def _write_external(self, tensor: TensorProto, size: int, blocks: Iterable[Array]) -> None:
        self._data.write(b"\0" * (-self._data.tell() % ALIGNMENT))
        offset = self._data.tell()
        for block in blocks:
            self._data.write(block.data)
            self._progress(block.nbytes)
        if self._data.tell() - offset != size:
            raise ValueError(f"{tensor.name}: wrote {self._data.tell() - offset} bytes, expected {size}")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self._data_name), ("offset", offset), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))

    def write(
        self, path: Path, inputs: Sequence[Any], outputs: Sequence[Any], opsets: dict[str, int]
    ) -> None:
        """Write the graph file; `inputs` and `outputs` are ONNX value infos."""
        graph = helper.make_graph(
            self._nodes, "embedding", inputs, outputs, initializer=list(self._initializers.values())
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets.items()],
            ir_version=9,
            producer_name="embedding-edge",
        )
        path.write_bytes(model.SerializeToString(deterministic=True))
