"""Vectors to a Parquet file, with pyarrow: the only file that imports it. Knows nothing of texts."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from embedding_runtime.errors import EngineError
from embedding_runtime.writers import Written


class ParquetWriter:
    """Columns `index` (or the id, as a string, under its own name), `embedding` and `error`.

    A Parquet file is readable only once its footer is written: the file gets its name when it is closed, and
    holds the row groups written until then.
    """

    def __init__(self, path: Path, dim: int, dtype: Any, id_field: str | None) -> None:
        """Create the file under a temporary name beside `path`.

        Raises:
            EngineError: pyarrow is not installed.
            OSError: the folder cannot be written.
        """
        self._arrow, parquet = _import_pyarrow()
        self._path, self._id_field = path, id_field
        self._dtype, self._dim = np.dtype(dtype), dim
        key = (id_field, self._arrow.string()) if id_field else ("index", self._arrow.int64())
        item = self._arrow.from_numpy_dtype(self._dtype)
        self._vectors = self._arrow.list_(item, dim)
        columns = [key, ("embedding", self._vectors), ("error", self._arrow.string())]
        self._schema = self._arrow.schema(columns)
        self._temporary = path.with_name(f".{path.name}.part")
        self._writer = parquet.ParquetWriter(str(self._temporary), self._schema)

    def write(self, rows: list[Written]) -> None:
        """See `Writer.write`; one row group each time."""
        keys = [_spelled(r.id) if self._id_field else r.index for r in rows]
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
        self._writer.write_batch(self._arrow.record_batch(columns, schema=self._schema))

    def close(self) -> None:
        """See `Writer.close`; a file whose footer cannot be written is removed: nothing could read it."""
        try:
            self._writer.close()
            self._temporary.replace(self._path)
        finally:
            self._temporary.unlink(missing_ok=True)


def _spelled(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _import_pyarrow() -> tuple[Any, Any]:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as e:
        raise EngineError(
            f"Parquet output needs pyarrow ({e}). Install it with: pip install 'embedding-edge[parquet]', or "
            "write .npy or .jsonl."
        ) from e
