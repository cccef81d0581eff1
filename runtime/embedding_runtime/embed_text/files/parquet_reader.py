"""Reads records of a Parquet file with pyarrow, in flat memory."""

from collections.abc import Iterator, Sequence
from typing import Any

from embedding_runtime.embed_text.files.parquet_writer import import_pyarrow
from embedding_runtime.embed_text.files.records import Record, check_names
from embedding_runtime.embed_text.files.text_source import Source
from embedding_runtime.errors import InputError

_BATCH_ROWS = 1024


def read_parquet(source: Source, layouts: Sequence[Sequence[str]]) -> Iterator[Record]:
    """Records with the columns of the first of `layouts` whose names the file has.

    Raises:
        InputError: no such columns, one of them twice, or a damaged file.
        EngineError: pyarrow is not installed.
    """
    arrow, parquet = import_pyarrow("Parquet files need")
    done = 0
    try:
        with source.seekable() as data:
            file: Any = parquet.ParquetFile(data)
            names = file.schema_arrow.names
            check_names(names, layouts)
            columns = next(list(layout) for layout in layouts if set(layout) <= set(names))
            for batch in file.iter_batches(_BATCH_ROWS, columns=list(dict.fromkeys(columns))):
                for values in batch.to_pylist():
                    done += 1
                    source.share_read = done / file.metadata.num_rows
                    yield Record(done, values)
    except (arrow.ArrowException, OSError) as e:
        if isinstance(e, OSError) and e.errno is not None:
            raise
        raise InputError(f"{source.name} is a damaged Parquet file ({e}). Copy it again.") from e
