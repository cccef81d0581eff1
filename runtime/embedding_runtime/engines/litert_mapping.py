"""Maps one signature of a LiteRT file as a model of its own: the same bytes, without the other signatures.

LiteRT compiles every signature of the file that it opens, and a full-size graph has seven: 25 ms and 6 MB for
each, most of which a process never runs. A view of one signature costs only one. It is a private mapping of
the file whose two lists, of subgraphs and of signatures, are cut to one entry; nothing else in a model refers
to a subgraph by its number.

LiteRT's Python interface opens a path or `bytes`, and copying a model into bytes takes as much memory as the
model has bytes. So the mapping is made to look like bytes: the page before it ends with the header that
CPython gives such an object. Under another Python, or on a system other than Linux, `supported` is false and
the whole file is opened.
"""

import ctypes
import mmap
import os
import struct
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

# PyBytesObject (cpython/bytesobject.h): reference count, type, length, hash not computed yet; then the bytes.
_HEADER = struct.Struct("@nPnn")
_REFERENCES, _NO_HASH = 1 << 28, -1
_UNTRIED = (3, 14)
_MAP_FIXED = 0x10  # sys/mman.h of Linux, on every architecture that has wheels
_FAILED = ctypes.c_void_p(-1).value
# Places of fields in their tables (schema.fbs).
_MODEL_SUBGRAPHS, _MODEL_SIGNATURES = 2, 7
_SUBGRAPH_TENSORS, _SUBGRAPH_INPUTS, _TENSOR_SHAPE = 0, 1, 0
_SIGNATURE_KEY, _SIGNATURE_SUBGRAPH = 2, 4


def supported() -> bool:
    """Whether this Python lays out bytes as views need them."""
    cpython = sys.implementation.name == "cpython" and sys.platform == "linux"
    return cpython and sys.version_info < _UNTRIED and bytes.__basicsize__ == _HEADER.size + 1


class Views:
    """A LiteRT file, open for views; it stays the same even if another file takes its path.

    Attributes:
        names: of the signatures, by the number of tokens that they take, ascending.
    """

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            OSError: it cannot be read.  ValueError: it is not a LiteRT file.
        """
        self._file = path.open("rb")
        with mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            places = {length: (place, name) for place, (length, name) in enumerate(_signatures(data))}
        self.names = {length: places[length][1] for length in sorted(places)}
        self._places = {length: place for length, (place, _) in places.items()}

    def open(self, length: int) -> "View":
        """A view of the file with only the signature of this length.

        Raises:
            OSError: no room to map it.
        """
        view = View(self._file.fileno(), os.fstat(self._file.fileno()).st_size)
        _keep(view, self._places[length])
        return view

    def close(self) -> None:
        """Close the file; views stay."""
        self._file.close()


class View:
    """A private mapping of a file; `data` is the mapping as bytes.

    Only pages that are written to are writable: a device may have less memory than the file has bytes.
    """

    def __init__(self, file: int, size: int) -> None:
        libc, page = _libc(), mmap.PAGESIZE
        self._size = page + size + 1  # bytes end with a zero
        anonymous = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._base = libc.mmap(None, self._size, mmap.PROT_READ, anonymous, -1, 0)
        if self._base == _FAILED:
            raise OSError(ctypes.get_errno(), "a LiteRT file cannot be mapped")
        self._start = start = self._base + page
        if libc.mmap(start, size, mmap.PROT_READ, mmap.MAP_PRIVATE | _MAP_FIXED, file, 0) != start:
            libc.munmap(self._base, self._size)
            raise OSError(ctypes.get_errno(), "a LiteRT file cannot be mapped")
        # Rows are read at random. madvise is only a hint, so its result is ignored.
        libc.madvise(start, size, mmap.MADV_RANDOM)
        self._write(-_HEADER.size, _HEADER.pack(_REFERENCES, id(bytes), size, _NO_HASH))
        self.data: bytes = ctypes.cast(start - _HEADER.size, ctypes.py_object).value
        self._references = sys.getrefcount(self.data)

    def put(self, at: int, value: int) -> None:
        """Write an unsigned number of 4 bytes, at a multiple of 4."""
        self._write(at, struct.pack("<I", value))

    def _write(self, at: int, content: bytes) -> None:
        """Write within one page."""
        page = self._start + at & -mmap.PAGESIZE
        if _libc().mprotect(page, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE):
            raise OSError(ctypes.get_errno(), "a LiteRT file cannot be mapped")
        ctypes.memmove(self._start + at, content, len(content))

    def close(self) -> None:
        """Unmap it, unless its bytes are still in use; then the mapping stays forever."""
        if self._base and sys.getrefcount(self.data) <= self._references:
            base, self._base = self._base, 0
            self.data = b""
            _libc().munmap(base, self._size)


@dataclass(frozen=True)
class _Table:
    """A table of a FlatBuffer, by its position in the data."""

    data: Any
    at: int

    @classmethod
    def root(cls, data: Any) -> "_Table":
        return cls(data, _unsigned(data, 0))

    def field(self, number: int) -> int | None:
        """The position of a field; None if it has its default value."""
        entries = self.at - _signed(self.data, self.at)
        place = 4 + 2 * number
        if place >= struct.unpack_from("<H", self.data, entries)[0]:
            return None
        offset: int = struct.unpack_from("<H", self.data, entries + place)[0]
        return self.at + offset if offset else None

    def items(self, number: int) -> range:
        """The positions of a vector's items, 4 bytes each."""
        field = self.field(number)
        if field is None:
            return range(0)
        vector = field + _unsigned(self.data, field)
        start = vector + 4
        return range(start, start + 4 * _unsigned(self.data, vector), 4)

    def text(self, number: int) -> str:
        """A string."""
        start = self.items(number).start
        return bytes(self.data[start : start + _unsigned(self.data, start - 4)]).decode()

    def table(self, item: int) -> "_Table":
        """The table that an item of a vector points to."""
        return _Table(self.data, item + _unsigned(self.data, item))


def _signatures(data: Any) -> list[tuple[int, str]]:
    """The last dimension of each signature's input, and its name."""
    try:
        if data[4:8] != b"TFL3":
            raise ValueError(f"it begins with {bytes(data[:8])!r}")
        model = _Table.root(data)
        graphs = model.items(_MODEL_SUBGRAPHS)
        signatures = [model.table(item) for item in model.items(_MODEL_SIGNATURES)]
        if not signatures:
            raise IndexError("no signatures")
        return [(_length(model.table(graphs[_subgraph(s)])), s.text(_SIGNATURE_KEY)) for s in signatures]
    except (struct.error, IndexError) as e:
        raise ValueError(f"its tables are damaged ({e})") from e


def _length(subgraph: _Table) -> int:
    tensor = _unsigned(subgraph.data, subgraph.items(_SUBGRAPH_INPUTS)[0])
    shape = subgraph.table(subgraph.items(_SUBGRAPH_TENSORS)[tensor]).items(_TENSOR_SHAPE)
    return _unsigned(subgraph.data, shape[-1])


def _subgraph(signature: _Table) -> int:
    field = signature.field(_SIGNATURE_SUBGRAPH)
    return 0 if field is None else _unsigned(signature.data, field)


def _keep(view: View, signature: int) -> None:
    """Keep one signature and its subgraph, as the only entries of their lists."""
    model = _Table.root(view.data)
    entry = model.table(model.items(_MODEL_SIGNATURES)[signature])
    _cut(view, model.items(_MODEL_SUBGRAPHS), _subgraph(entry))
    _cut(view, model.items(_MODEL_SIGNATURES), signature)
    field = entry.field(_SIGNATURE_SUBGRAPH)
    if field is not None:
        view.put(field, 0)


def _cut(view: View, items: range, index: int) -> None:
    target = items[index] + _unsigned(view.data, items[index])
    view.put(items.start, target - items.start)
    view.put(items.start - 4, 1)


def _unsigned(data: Any, at: int) -> int:
    number: int = struct.unpack_from("<I", data, at)[0]
    return number


def _signed(data: Any, at: int) -> int:
    number: int = struct.unpack_from("<i", data, at)[0]
    return number


@cache
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype, libc.munmap.restype = ctypes.c_void_p, ctypes.c_int
    size, number = ctypes.c_size_t, ctypes.c_int
    libc.mmap.argtypes = [ctypes.c_void_p, size, number, number, number, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, size]
    libc.madvise.restype, libc.madvise.argtypes = number, [ctypes.c_void_p, size, number]
    libc.mprotect.restype, libc.mprotect.argtypes = number, [ctypes.c_void_p, size, number]
    return libc
