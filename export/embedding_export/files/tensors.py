"""A tensor in a memory-mapped file, widened to float32 a range of rows at a time."""

import hashlib
import math
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedding_export.errors import CheckpointError

DType = Literal["float32", "bfloat16", "float16"]

_STORED: dict[DType, str] = {"float32": "<u4", "bfloat16": "<u2", "float16": "<u2"}
# All exponent bits set means infinity or NaN (IEEE 754; bfloat16 is the upper half of a float32).
_EXPONENT: dict[DType, int] = {"float32": 0x7F80_0000, "bfloat16": 0x7F80, "float16": 0x7C00}
_BLOCK_BYTES = 4 << 20


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor of at least one axis; nothing is read before it is asked for.

    `start` is the position of its bytes (little-endian, row-major) in the mapped file. `offset` is added to
    every value as it is read, in float32, for files that hold a tensor minus a constant. If the tensor is
    some rows of a tensor in the file, `parent` is that tensor.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType
    file: Path
    start: int
    mapping: mmap.mmap
    offset: float = field(default=0.0, kw_only=True)
    parent: "Tensor | None" = field(default=None, kw_only=True)

    @property
    def nbytes(self) -> int:
        """Its size in the file, in bytes."""
        return math.prod(self.shape) * np.dtype(_STORED[self.dtype]).itemsize

    def cut(self, name: str, first: int, count: int) -> "Tensor":
        """`count` of its rows as a tensor of their own."""
        shape = (count, *self.shape[1:])
        start = self.start + first * (self.nbytes // self.shape[0])
        return replace(self, name=name, shape=shape, start=start, parent=self)

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` … `stop` - 1 of the first axis, float32, read-only.

        A view of the file if that stores float32 and there is no offset, else a new array.

        Raises:
            IndexError: rows outside the tensor.
        """
        if not 0 <= start <= stop <= self.shape[0]:
            raise IndexError(f"rows {start} to {stop} of {self.name}, which has {self.shape[0]}")
        raw = self._bits(start, stop)
        if self.dtype == "bfloat16":
            widened = raw.astype("<u4")
            widened <<= 16
            values = widened.view("<f4")
        else:
            values = raw.view("<f4") if self.dtype == "float32" else raw.view("<f2").astype("<f4")
        values = values.reshape(stop - start, *self.shape[1:])
        if self.offset:
            values = values + np.float32(self.offset)
        values.flags.writeable = False
        return values

    def array(self) -> NDArray[np.float32]:
        """The whole tensor as float32, read-only; a view of the file if `rows` gives one."""
        return self.rows(0, self.shape[0])

    def row_ranges(self, block_bytes: int = _BLOCK_BYTES) -> Iterator[tuple[int, int]]:
        """Row ranges (start, stop) that cover the tensor in order, about `block_bytes` in the file each."""
        step = max(1, block_bytes * self.shape[0] // max(1, self.nbytes))
        for start in range(0, self.shape[0], step):
            yield start, min(start + step, self.shape[0])

    def bits(self) -> Iterator[NDArray[Any]]:
        """The stored bits as unsigned integers of the item's width, 1-D, in blocks of about 4 MB."""
        for start, stop in self.row_ranges():
            yield self._bits(start, stop)

    def release(self) -> None:
        """Let the system drop this tensor's pages from memory; arrays stay valid and read the file again."""
        first = -(-self.start // mmap.PAGESIZE) * mmap.PAGESIZE
        length = self.start + self.nbytes - first
        if hasattr(mmap, "MADV_DONTNEED") and length > 0:
            self.mapping.madvise(mmap.MADV_DONTNEED, first, length)

    def _bits(self, start: int, stop: int) -> NDArray[Any]:
        per_row = math.prod(self.shape[1:])
        dtype = np.dtype(_STORED[self.dtype])
        offset = self.start + start * per_row * dtype.itemsize
        return np.frombuffer(self.mapping, dtype, (stop - start) * per_row, offset)


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over the name, dtype, shape and stored bytes of every tensor, in order of name.

    For tensors that are rows of another, that other one counts. Every byte is read once, in blocks; NaN and
    infinity are refused.

    Raises:
        CheckpointError: a tensor holds NaN or infinity.
    """
    digest = hashlib.sha256()
    own = {t.parent.name if t.parent else name: t.parent or t for name, t in tensors.items()}
    for name, tensor in sorted(own.items()):
        digest.update(f"{name} {tensor.dtype} {'x'.join(map(str, tensor.shape))}\n".encode())
        mask = _EXPONENT[tensor.dtype]
        for block in tensor.bits():
            if np.any((block & mask) == mask):
                raise CheckpointError(
                    f"{tensor.file}: tensor {name} holds NaN or infinite values. The training run or the "
                    "file is damaged: use another checkpoint, or fetch this one again."
                )
            digest.update(block.data)
        tensor.release()
    return digest.hexdigest()
