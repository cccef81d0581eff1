"""Writes vectors to a Parquet file with pyarrow. Only this file imports pyarrow."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from embedding_runtime.embed_text.files.writers import RowFile, Written, spelled_as_json
from embedding_runtime.errors import EngineError, InputError
from embedding_runtime.machine.durable_file import move_durably


class ParquetWriter:
    """Columns `index` (or the id, as a string, under its own name), `embedding` and `error`.

    A Parquet file is readable only once its footer is written. So rows first go to a spool beside it, which
    is a stream of Arrow record batches that can be cut and continued. Closing turns it into the Parquet file,
    with a row group for each batch. The spool is kept as long as rows are missing.
    """

    def __init__(
        self,
        path: Path,
        dim: int,
        dtype: Any,
        id_field: str | None,
        metadata: dict[str, str],
        kept_bytes: int = 0,
        first: int | None = None,
    ) -> None:
        """Create the spool, or cut it to the bytes `kept_bytes` of an earlier run.

        Args:
            metadata: the file's metadata, by key.
            first: the `index` of the input's first row in a file that has rows; None writes a new file.

        Raises:
            EngineError: pyarrow is not installed.
            OSError: the folder cannot be written.
        """
        self._arrow, self._parquet = import_pyarrow("Parquet output needs")
        self._path, self._id_field, self._first = path, id_field, first or 0
        self._dtype, self._dim = np.dtype(dtype), dim
        self._schema = make_schema(self._arrow, dim, dtype, id_field).with_metadata(metadata)
        self._vectors = self._schema.field("embedding").type
        self._spool = RowFile(spool(path), kept_bytes)
        if not kept_bytes:
            self._spool.append(self._schema.serialize().to_pybytes())
            if first is not None:
                self._take_over()

    def write(self, rows: list[Written]) -> None:
        """See `Writer.write`; one row group each time."""
        keys = [_spelled(r.id) if self._id_field else self._first + r.index for r in rows]
        missing = np.array([r.vector is None for r in rows])
        values = np.zeros((len(rows), self._dim), dtype=self._dtype)
        for place, row in enumerate(rows):
            if row.vector is not None:
                values[place] = row.vector
        flat = self._arrow.array(values.reshape(-1))
        vectors = self._arrow.FixedSizeListArray.from_arrays(
            flat, type=self._vectors, mask=self._arrow.array(missing)
        )
        errors = self._arrow.array([r.error for r in rows], type=self._arrow.string())
        columns = [self._arrow.array(keys, type=self._schema.field(0).type), vectors, errors]
        batch = self._arrow.record_batch(columns, schema=self._schema)
        self._spool.append(batch.serialize().to_pybytes())

    def sync(self) -> int | None:
        """See `Writer.sync`; the bytes are the spool's."""
        return self._spool.sync()

    def close(self, complete: bool) -> None:
        """See `Writer.close`; a file that cannot be completed is removed, because nothing could read it."""
        self._spool.close()
        temporary = self._path.with_name(f".{self._path.name}.part")
        try:
            self._convert(temporary)
            move_durably(temporary, self._path)
        finally:
            temporary.unlink(missing_ok=True)
        if complete:
            spool(self._path).unlink()

    def _take_over(self) -> None:
        """Copy the rows that the file has into the spool."""
        with (
            damage_told(self._path, self._arrow),
            self._path.open("rb") as data,
            self._parquet.ParquetFile(data) as file,
        ):
            for group in range(file.metadata.num_row_groups):
                for batch in file.read_row_group(group).to_batches():
                    same = self._arrow.record_batch(batch.columns, schema=self._schema)
                    self._spool.append(same.serialize().to_pybytes())

    def _convert(self, out: Path) -> None:
        with (
            self._arrow.memory_map(os.fsencode(spool(self._path))) as mapped,
            self._arrow.ipc.open_stream(mapped) as batches,
            out.open("wb") as data,
            self._parquet.ParquetWriter(data, self._schema) as writer,
        ):
            for batch in batches:
                writer.write_batch(batch)


def make_schema(arrow: Any, dim: int, dtype: Any, id_field: str | None) -> Any:
    """The schema of a file of vectors (dim,); `arrow` is the module pyarrow."""
    key = (id_field, arrow.string()) if id_field else ("index", arrow.int64())
    vectors = arrow.list_(arrow.from_numpy_dtype(np.dtype(dtype)), dim)
    return arrow.schema([key, ("embedding", vectors), ("error", arrow.string())])


def spool(path: Path) -> Path:
    """The path of the spool that holds the rows of a Parquet file until it is closed."""
    return path.with_name(f".{path.name}.rows")


def _spelled(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else spelled_as_json(value)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")  # lone surrogates, as in JSONL


@contextmanager
def damage_told(path: Path, arrow: Any) -> Iterator[None]:
    """Turns what the module pyarrow raises for a damaged file into an InputError."""
    try:
        yield
    except (arrow.ArrowException, OSError) as e:
        if isinstance(e, OSError) and e.errno is not None:
            raise
        raise InputError(f"{path} is not a readable Parquet file ({e}). Copy or make it again.") from e


def import_pyarrow(what: str) -> tuple[Any, Any]:
    """The modules pyarrow and pyarrow.parquet; `what` begins the sentence that says they are needed.

    Raises:
        EngineError: not installed.
    """
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as e:
        raise EngineError(
            f"{what} pyarrow ({e}). Install it with: pip install 'embedding-edge[parquet]', or use another "
            "format."
        ) from e
