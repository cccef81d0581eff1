"""Reads what an existing file of vectors holds, and whether rows can be added to it. Writes nothing."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedding_runtime.embed_text.files.parquet_writer import damage_told, import_pyarrow, make_schema
from embedding_runtime.embed_text.files.writers import HEADER_BYTES, output_format
from embedding_runtime.errors import InputError

_TAIL = 1 << 16


@dataclass(frozen=True)
class Existing:
    """The number of bytes to keep, and the `index` of the row that comes next."""

    kept_bytes: int
    next_index: int


def examine(path: Path, width: int, dtype: str, id_field: str | None) -> Existing:
    """Examine the file to which rows of `width` numbers of a dtype are to be added.

    Raises:
        InputError: the file is not one of `embed-text`'s with rows of this kind.
        EngineError: the file is Parquet and pyarrow is not installed.
    """
    kind = output_format(path)
    if kind == "npy":
        return _npy(path, width, dtype)
    return _parquet(path, width, dtype, id_field) if kind == "parquet" else _jsonl(path, width, id_field)


def _npy(path: Path, width: int, dtype: str) -> Existing:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as e:
        raise InputError(f"{path} is not a readable .npy file ({e}).") from e
    shape, offset = array.shape, array.offset
    fits = array.ndim == 2 and shape[1] == width and array.dtype == np.dtype(dtype).newbyteorder("<")
    if not fits or not array.flags.c_contiguous or offset != HEADER_BYTES:
        raise InputError(
            f"{path} holds {array.dtype} of shape {shape}; expected {dtype} of shape (N, {width}), as "
            "embed-text writes it, to add vectors to."
        )
    return Existing(HEADER_BYTES + array.nbytes, len(array))


def _jsonl(path: Path, width: int, id_field: str | None) -> Existing:
    size = path.stat().st_size
    if not size:
        return Existing(0, 0)
    line = _last_line(path, size)
    key = id_field or "index"
    try:
        last: dict[str, Any] = json.loads(line)
        names, vector = list(last), last["embedding"]
        index = last[key]
        if not line.endswith(b"\n") or names[:2] != [key, "embedding"]:
            raise ValueError(f"it has the fields {names}")
        if vector is not None and len(vector) != width:
            raise ValueError(f"it has {len(vector)} numbers")
        if id_field is None and type(index) is not int:
            raise ValueError(f"its index is {index!r}")
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise InputError(
            f"{path} ends with a row that embed-text would not have written here ({e}); expected {key!r} and "
            f"an embedding of {width} numbers. Give the options that the file was made with, or another file."
        ) from e
    return Existing(size, 0 if id_field else index + 1)


def _last_line(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        length = _TAIL
        while True:
            file.seek(max(0, size - length), os.SEEK_SET)
            lines = file.read().splitlines(keepends=True)
            if len(lines) > 1 or length >= size:
                return lines[-1]
            length *= 2


def _parquet(path: Path, width: int, dtype: str, id_field: str | None) -> Existing:
    arrow, parquet = import_pyarrow("Adding to a Parquet file needs")
    with damage_told(path, arrow), path.open("rb") as data, parquet.ParquetFile(data) as file:
        schema = file.schema_arrow
        expected = make_schema(arrow, width, dtype, id_field)
        if not schema.equals(expected, check_metadata=False):
            raise InputError(
                f"{path} has the columns {_shown(schema)}; expected {_shown(expected)} to add vectors "
                "to. Give the options that the file was made with, or another file."
            )
        groups = range(file.metadata.num_row_groups)
        last = max((g for g in groups if file.metadata.row_group(g).num_rows), default=None)
        if id_field or last is None:
            return Existing(0, 0)
        return Existing(0, file.read_row_group(last, columns=["index"])["index"][-1].as_py() + 1)


def _shown(schema: Any) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)
