"""Reads the weights of a written ONNX graph back from its files, whatever they are stored as.

It relies on the layout that the graph builder documents but shares no code with it, so that it reads what an
engine will find. `audit` says what the weights should be.
"""

import math
import mmap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from embedding_export.architectures.interface.tensors import TABLE
from embedding_export.weights.stored import Grid, StoredWeight, int8_weight, plain_weight, split_name
from embedding_runtime.engines.onnx_files.links import data_beside

Array = NDArray[Any]


def read_stored(path: Path) -> dict[str, StoredWeight]:
    """Every weight of the graph at `path` by canonical name; constants are left out.

    Parts that do not make up a weight (scales without codes, say) appear under their own names, so that
    nothing is overlooked.
    """
    model = onnx.load(str(path), load_external_data=False)
    tensors = (t for t in model.graph.initializer if not t.name.startswith("constant_"))
    files = _Files(data_beside(path))
    parts = {t.name: files.array(t) for t in tensors}
    weights: dict[str, StoredWeight] = {}
    for name in list(parts):
        stem, _, part = name.rpartition(":")
        base, turned = split_name(stem)
        if part == "int8" and f"{stem}:scale" in parts:
            codes = _oriented(base, parts.pop(name))
            weights[base] = replace(int8_weight(codes, parts.pop(f"{stem}:scale")), turned=turned)
        elif part == "int4" and {f"{stem}:scale", f"{stem}:zero"} <= parts.keys():
            codes, zeros, scales = (parts.pop(f"{stem}:{p}") for p in ("int4", "zero", "scale"))
            steps = parts.pop(f"{stem}:step", None)
            scales = scales[:, None] if scales.ndim == 1 else scales
            stored = _int4(base, codes, zeros, scales, steps)
            weights[base] = replace(stored, turned=turned, eight_bits=steps is not None and base != TABLE)
    weights |= {name: plain_weight(_oriented(name, values)) for name, values in parts.items()}
    return {name: replace(weight, release=files.release) for name, weight in weights.items()}


def score_scales(path: Path) -> list[tuple[float, float]]:
    """The static scales of queries and keys, layer by layer, of a graph whose scores are int8 products."""
    graph = onnx.load(str(path), load_external_data=False).graph
    tensors = {t.name: t for t in graph.initializer}
    kind = "MatMulIntegerToFloat"  # a matrix has a scale for each output, keys have one for all
    products = [n for n in _nodes(graph) if n.op_type == kind and not tensors[n.input[3]].dims]
    q, k = ([float(numpy_helper.to_array(tensors[n.input[i]])) for n in products] for i in (2, 3))
    return list(zip(q, k, strict=True))


def _nodes(graph: Any) -> Iterator[Any]:
    """All nodes in order, including those of graphs inside nodes."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


class _Files:
    """The files of external data beside a graph, memory-mapped once each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mapped: dict[str, mmap.mmap] = {}

    def array(self, tensor: TensorProto) -> Array:
        """A tensor's values, read-only."""
        if tensor.data_location != TensorProto.EXTERNAL:
            return np.asarray(numpy_helper.to_array(tensor))
        where = {entry.key: entry.value for entry in tensor.external_data}
        dtype, shape = helper.tensor_dtype_to_np_dtype(tensor.data_type), tuple(tensor.dims)
        mapping = self._map(where["location"])
        return np.frombuffer(mapping, dtype, math.prod(shape), int(where["offset"])).reshape(shape)

    def release(self) -> None:
        """Let the system drop all pages."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for mapping in self._mapped.values():
                mapping.madvise(mmap.MADV_DONTNEED)

    def _map(self, name: str) -> mmap.mmap:
        if name not in self._mapped:
            with (self._folder / name).open("rb") as file:
                self._mapped[name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._mapped[name]


def _oriented(name: str, values: Array) -> Array:
    """The values as [out, in]: matrices are stored transposed, [in, out], for MatMul."""
    return values if name == TABLE or values.ndim < 2 else values.T


def _int4(name: str, codes: Array, zeros: Array, scales: Array, steps: Array | None) -> StoredWeight:
    """If there are `steps`, a block's scale is its step times the row's scale."""
    unpack = _halves if name == TABLE else _pairs
    rows, count = scales.shape if steps is None else steps.shape

    def grid(start: int, stop: int) -> Grid:
        step = scales[start:stop].astype(np.float32)[:, :, None]
        if steps is not None:
            step = steps[start:stop].astype(np.float32)[:, :, None] * step
        zero = unpack(zeros[start:stop])[:, :count, None].astype(np.float32)
        code = unpack(codes[start:stop].reshape(stop - start, -1)).reshape(stop - start, count, -1)
        ends = (-zero * step, (15 - zero) * step)
        wide = [
            np.repeat(x[:, :, 0], code.shape[2], axis=1)
            for x in (np.abs(step), np.minimum(*ends), np.maximum(*ends))
        ]
        return Grid(((code.astype(np.float32) - zero) * step).reshape(stop - start, -1), *wide)

    return StoredWeight("int4", (rows, codes[0].size * 2), grid)


def _pairs(packed: Array) -> Array:
    """Two codes per byte, the earlier one in the low bits."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)


def _halves(packed: Array) -> Array:
    """Two codes per byte: the row's first half in the low bits, its second half in the high bits."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)
