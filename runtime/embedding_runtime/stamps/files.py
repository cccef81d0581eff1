"""Stamps in files: inside Parquet, and beside any other file.

A Parquet file has the stamp in its key-value metadata, under `PARQUET_KEY`. Any other file has it in a second
file beside it, so that no reader of vectors meets something that it does not know.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from embedding_runtime.errors import InputError
from embedding_runtime.machine.durable_file import replace_durably
from embedding_runtime.stamps.stamp import Stamp

PARQUET_KEY = "embedding_stamp"
_SUFFIX = ".stamp.json"
_NO_STAMP = (
    "{} has no stamp, so nothing says which model its vectors are of. Embed its texts again, or, if you know "
    "how they were made, add one in Python: write_stamp({!r}, make_stamp(embedder))."
)


def stamp_path(path: Path) -> Path:
    """The file beside a file or folder of vectors that holds its stamp."""
    return path.with_name(path.name + _SUFFIX)


def write_stamp(path: str | Path, stamp: Stamp) -> None:
    """Write a stamp beside a file or folder of vectors; a power cut leaves this one or the previous one.

    Raises:
        InputError: a Parquet file, which has its stamp inside.
        OSError: it cannot be written.
    """
    file = Path(path)
    if file.suffix.lower() == ".parquet":
        raise InputError(
            f"{file} is a Parquet file, which has its stamp in its metadata: write it with embed-text, or "
            f"put stamp.to_json() under {PARQUET_KEY!r} in the schema's metadata."
        )
    new = file.with_name(f".{file.name}{_SUFFIX}.new")
    replace_durably(stamp_path(file), stamp.to_json() + "\n", new)


def read_stamp(path: str | Path) -> Stamp:
    """The stamp of a file or folder of vectors.

    Raises:
        InputError: there is no such file, it has no stamp, or the stamp is damaged or belongs to another
            file.
        EngineError: the file is Parquet and pyarrow is not installed.
    """
    file = Path(path)
    if not file.exists():
        raise InputError(f"No such file: {file}. Give the file that holds the vectors.")
    if file.suffix.lower() == ".parquet" and file.is_file():
        text, where = _parquet_stamp(file), str(file)
    else:
        beside = stamp_path(file)
        where = str(beside)
        try:
            text = beside.read_text(encoding="utf-8")
        except FileNotFoundError as e:
            raise InputError(_NO_STAMP.format(file, str(file))) from e
    stamp = Stamp.from_mapping(_object(text, where), where)
    if file.suffix.lower() == ".npy":
        _check_array(file, stamp)
    return stamp


def stored_as(dim: int, precision: str) -> tuple[int, str]:
    """The number of items in a stored vector of `dim` components, and their dtype."""
    width = (dim + 7) // 8 if precision in ("binary", "ubinary") else dim
    return width, {"binary": "int8", "ubinary": "uint8"}.get(precision, precision)


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise InputError(f"{where} holds no stamp ({e}). Embed the texts again, or write it again.") from e
    if not isinstance(data, dict):
        raise InputError(f"{where} holds no stamp: {text[:40]!r}. Embed the texts again, or write it again.")
    return data


def _parquet_stamp(file: Path) -> str:
    from embedding_runtime.embed_text.files.parquet_writer import damage_told, import_pyarrow

    arrow, parquet = import_pyarrow("Reading Parquet needs")
    with damage_told(file, arrow), file.open("rb") as data:
        metadata = parquet.read_schema(data).metadata or {}
    if PARQUET_KEY.encode() not in metadata:
        raise InputError(
            f"{file} has no stamp ({PARQUET_KEY!r} in its metadata), so nothing says which model its vectors "
            "are of; other tools drop it when they rewrite a file. Embed its texts again with embed-text."
        )
    text: str = metadata[PARQUET_KEY.encode()].decode("utf-8", "replace")
    return text


def _check_array(file: Path, stamp: Stamp) -> None:
    """Check the array against its stamp: another program may have overwritten the file and left the stamp."""
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as e:
        raise InputError(f"{file} is not a readable .npy file ({e}).") from e
    width, dtype = stored_as(stamp.dim, stamp.vector_precision)
    if array.ndim != 2 or array.shape[1] != width or array.dtype != np.dtype(dtype):
        raise InputError(
            f"{file} holds {array.dtype} of shape {array.shape}; its stamp {stamp_path(file).name} says "
            f"{dtype} of shape (N, {width}). The file is not the one that was stamped: embed its texts again."
        )
