"""Reads the weights of a written LiteRT file back, whatever they are stored as.

It shares no code with the writer, so that it reads what an engine will find. Every signature must use the
very same tensors.
"""

import mmap
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from embedding_export.errors import AuditError
from embedding_export.weights.stored import Grid, StoredWeight, int8_weight, plain_weight, split_name

DTYPES: dict[int, "np.dtype[Any]"] = {
    schema.TensorType.FLOAT32: np.dtype("<f4"),
    schema.TensorType.FLOAT16: np.dtype("<f2"),
    schema.TensorType.INT8: np.dtype(np.int8),
    schema.TensorType.INT4: np.dtype(np.uint8),
}
# The ends of signed 4-bit codes.
LOWEST, HIGHEST = -8, 7

Array = NDArray[Any]


def read_litert(path: Path) -> dict[str, StoredWeight]:
    """Every weight of the file at `path` by canonical name; no constants, and no scales alone.

    Raises:
        AuditError: two signatures use one name for different tensors.
    """
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def release() -> None:
        if hasattr(mmap, "MADV_DONTNEED"):
            mapping.madvise(mmap.MADV_DONTNEED)

    model = schema.Model.GetRootAs(mapping)
    weights: dict[str, StoredWeight] = {}
    seen: dict[str, tuple[Any, ...]] = {}
    for graph in (model.Subgraphs(i) for i in range(model.SubgraphsLength())):
        tensors = Tensors.of(graph)
        for name, tensor in tensors.weights(model):
            meaning = tensors.meaning(tensor)
            if seen.setdefault(name, meaning) != meaning:
                raise AuditError(
                    f"{path.name}: its signatures store different tensors under the name {name}. The file "
                    "was refused; please report this with the checkpoint's name."
                )
            base, turned = split_name(name)
            if base not in weights:
                weight = _weight(model, tensor, tensors)
                weights[base] = replace(weight, release=release, turned=turned)
    return weights


@dataclass(frozen=True)
class Tensors:
    """The tensors of one signature with their names, which cost much to read and are read once."""

    named: list[tuple[str, Any]]

    @classmethod
    def of(cls, graph: Any) -> "Tensors":
        """Those of a subgraph."""
        tensors = (graph.Tensors(i) for i in range(graph.TensorsLength()))
        return cls([(t.Name().decode(), t) for t in tensors])

    @cached_property
    def _scales(self) -> dict[str, Any]:
        """The tensors that hold an int8 table's scales, by the table's name."""
        end = ":scale"
        return {name.removesuffix(end): t for name, t in self.named if name.endswith(end)}

    def weights(self, model: Any) -> list[tuple[str, Any]]:
        """The tensors that hold data of their own under a name from the checkpoint."""
        return [
            (name, t)
            for name, t in self.named
            if not name.startswith("constant_")
            and not name.endswith(":scale")
            and not model.Buffers(t.Buffer()).DataIsNone()
        ]

    def block_scales(self, block: Any) -> Any:
        """The tensor that holds the scales of a matrix in blocks."""
        return self.named[block.Scales()][1]

    def scales_beside(self, tensor: Any) -> Any:
        """The tensor that holds an int8 table's scales, None for other tensors."""
        return self._scales.get(tensor.Name().decode())

    def meaning(self, tensor: Any) -> tuple[Any, ...]:
        """Identifies the data that a tensor reads: buffer, type, shape, and the place of its scales."""
        scales: Any = None
        if (block := _block(tensor)) is not None:
            scales = (self.block_scales(block).Buffer(), block.BlockSize())
        elif (quantization := tensor.Quantization()) is not None and not quantization.ScaleIsNone():
            beside = self.scales_beside(tensor)
            scales = (quantization.ScaleAsNumpy().tobytes(), beside and beside.Buffer())
        return tensor.Buffer(), tensor.Type(), tuple(tensor.ShapeAsNumpy().tolist()), scales


def _block(tensor: Any) -> Any:
    quantization = tensor.Quantization()
    kind = schema.QuantizationDetails.BlockwiseQuantization
    if quantization is None or quantization.DetailsType() != kind:
        return None
    table, details = quantization.Details(), schema.BlockwiseQuantization()
    details.Init(table.Bytes, table.Pos)
    return details


def _weight(model: Any, tensor: Any, tensors: Tensors) -> StoredWeight:
    shape = tuple(tensor.ShapeAsNumpy().tolist())
    values = _data(model, tensor)
    if tensor.Type() == schema.TensorType.INT8:
        scales = tensor.Quantization().ScaleAsNumpy()
        if (beside := tensors.scales_beside(tensor)) is not None:
            scales = scales * _data(model, beside)
        return int8_weight(values.reshape(shape), scales)
    if (block := _block(tensor)) is not None:
        scales = _data(model, tensors.block_scales(block)).reshape(shape[0], -1)
        return _int4(values.reshape(shape[0], -1), scales, shape)
    return plain_weight(values.reshape(shape))


def _data(model: Any, tensor: Any) -> Array:
    return np.asarray(model.Buffers(tensor.Buffer()).DataAsNumpy()).view(DTYPES[tensor.Type()])


def _int4(packed: Array, scales: Array, shape: tuple[int, ...]) -> StoredWeight:
    block = shape[1] // scales.shape[1]

    def grid(start: int, stop: int) -> Grid:
        halves = packed[start:stop, :, None] >> np.array([0, 4], np.uint8) & 15
        codes = halves.reshape(stop - start, -1).astype(np.int8)
        codes = np.where(codes > HIGHEST, codes - 16, codes).astype(np.float32)
        step = np.repeat(scales[start:stop].astype(np.float32), block, axis=1)
        return Grid(codes * step, step, LOWEST * step, HIGHEST * step)

    return StoredWeight("int4_symmetric", shape, grid)
