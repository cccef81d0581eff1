"""Writes vectors to .npy or JSONL, row by row, so that the file holds complete rows whatever happens.

Parquet is in `parquet_writer`, because it needs a library of its own.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from embedding_runtime.errors import InputError
from embedding_runtime.vectors import as_json

OutputFormat = Literal["npy", "jsonl", "parquet"]
HEADER_BYTES = 128
_STDOUT = 1


@dataclass(frozen=True, slots=True)
class Written:
    """One row to write: its number in the input, from 0, its id, and its vector or an error instead."""

    index: int
    id: Any
    vector: NDArray[Any] | None
    error: str | None = None


def spelled_as_json(value: Any) -> str:
    """JSON on one line; what it has no form for, such as a date in a list, is spelled out."""
    return json.dumps(value, ensure_ascii=False, default=str)


class Writer(Protocol):
    """Takes rows; after `close` the file holds every row that was written whole."""

    def write(self, rows: list[Written]) -> None:
        """Append rows.

        Raises:
            OSError: the disk is full, the pipe is closed ...
        """
        ...

    def sync(self) -> int | None:
        """Flush the rows to the disk and return their bytes so far; None if a run cannot be resumed there."""
        ...

    def close(self, complete: bool) -> None:
        """Finish the file; `complete` says whether all rows have been written."""
        ...


def output_format(path: Path | None) -> OutputFormat:
    """The format by the file's suffix; JSONL for standard output.

    Raises:
        InputError: another suffix.
    """
    suffixes: dict[str, OutputFormat] = {".npy": "npy", ".jsonl": "jsonl", ".parquet": "parquet"}
    if path is None:
        return "jsonl"
    if path.suffix.lower() not in suffixes:
        raise InputError(
            f"The output {path} has the suffix {path.suffix!r}; expected one of {list(suffixes)}."
        )
    return suffixes[path.suffix.lower()]


class RowFile:
    """A file, or standard output, that grows by whole rows: a row that fails half way is cut off."""

    def __init__(self, path: Path | None, kept_bytes: int = 0) -> None:
        """Create the file, or cut it to the bytes `kept_bytes` of an earlier run.

        Raises:
            OSError: it cannot be written.
        """
        flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0)
        self._own = path is not None
        self._fd = _STDOUT if path is None else os.open(path, flags, 0o666)
        self._good = self._position(kept_bytes)
        self._after = self._good

    def append(self, data: bytes) -> None:
        """Add bytes that end a row."""
        if self._good is not None:
            self._after = self._good + len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        self._good = self._after

    def rewrite(self, data: bytes) -> None:
        """Replace the first bytes."""
        os.lseek(self._fd, 0, os.SEEK_SET)
        os.write(self._fd, data)
        os.lseek(self._fd, 0, os.SEEK_END)

    def sync(self) -> int | None:
        """Flush to the disk, and return the bytes so far; None if nothing can be cut off, as in a pipe."""
        if not self._own or self._good is None:
            return None
        os.fsync(self._fd)
        return self._good

    def close(self) -> None:
        """Cut off an unfinished row if the output is a file, and close it."""
        try:
            # An interruption may come when all is written and nothing yet noted: such rows are whole.
            if self._good is not None and os.fstat(self._fd).st_size not in (self._good, self._after):
                os.ftruncate(self._fd, self._good)
        finally:
            if self._own:
                os.close(self._fd)

    def _position(self, kept_bytes: int) -> int | None:
        """The position of the next row; None if there is none, as in a pipe or a terminal."""
        try:
            os.lseek(self._fd, 0, os.SEEK_CUR)
            os.ftruncate(self._fd, kept_bytes if self._own else os.fstat(self._fd).st_size)
            if self._own:
                os.lseek(self._fd, 0, os.SEEK_END)
        except OSError:
            return None
        return os.fstat(self._fd).st_size


class JsonlWriter:
    """One object per line: `index` (or the id under its name), `embedding`, and `error` if that is null."""

    def __init__(self, path: Path | None, id_field: str | None, kept_bytes: int = 0, first: int = 0) -> None:
        """`first` is the `index` of the input's first row."""
        self._file, self._id_field, self._first = RowFile(path, kept_bytes), id_field, first

    def write(self, rows: list[Written]) -> None:
        """See `Writer.write`."""
        self._file.append(b"".join(self._line(row) for row in rows))

    def sync(self) -> int | None:
        """See `Writer.sync`."""
        return self._file.sync()

    def close(self, complete: bool) -> None:
        """See `Writer.close`."""
        self._file.close()

    def _line(self, row: Written) -> bytes:
        key = {self._id_field: row.id} if self._id_field else {"index": self._first + row.index}
        fields = spelled_as_json(key)[:-1]
        vector = "null" if row.vector is None else as_json(row.vector)
        error = "" if row.error is None else f', "error": {json.dumps(row.error, ensure_ascii=False)}'
        return f'{fields}, "embedding": {vector}{error}}}\n'.encode("utf-8", "backslashreplace")


class NpyWriter:
    """A .npy array (rows, dim) that can be memory-mapped at any time: its header follows each block of rows.

    A row without a vector is a row of NaN.
    """

    def __init__(self, path: Path, dim: int, dtype: Any, kept_bytes: int = 0) -> None:
        self._file, self._dim, self._dtype = RowFile(path, kept_bytes), dim, np.dtype(dtype)
        self._rows = max(0, kept_bytes - HEADER_BYTES) // (dim * self._dtype.itemsize)
        if kept_bytes:
            self._file.rewrite(self._header())
        else:
            self._file.append(self._header())

    def write(self, rows: list[Written]) -> None:
        """See `Writer.write`."""
        block = np.full((len(rows), self._dim), np.nan if self._dtype.kind == "f" else 0, dtype=self._dtype)
        for place, row in enumerate(rows):
            if row.vector is not None:
                block[place] = row.vector
        self._file.append(block.tobytes())
        self._rows += len(rows)
        self._file.rewrite(self._header())

    def sync(self) -> int | None:
        """See `Writer.sync`."""
        return self._file.sync()

    def close(self, complete: bool) -> None:
        """See `Writer.close`."""
        self._file.close()

    def _header(self) -> bytes:
        shape = f"({self._rows}, {self._dim})"
        text = f"{{'descr': {self._dtype.str!r}, 'fortran_order': False, 'shape': {shape}, }}"
        room = HEADER_BYTES - npy_format.MAGIC_LEN - 2
        return (
            npy_format.magic(1, 0)
            + room.to_bytes(2, "little")
            + (text.ljust(room - 1) + "\n").encode("latin-1")
        )
