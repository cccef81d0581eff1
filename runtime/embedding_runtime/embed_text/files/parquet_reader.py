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
            # Spark writes a checksum of each page; where there is none, nothing is compared.
            file: Any = parquet.ParquetFile(data, page_checksum_verification=True)
            names = file.schema_arrow.names
            check_names(names, layouts)
            columns = next(list(layout) for layout in layouts if set(layout) <= set(names))
            for batch in file.iter_batches(_BATCH_ROWS, columns=list(dict.fromkeys(columns))):
                for record in _records(batch, done):
                    done += 1
                    source.share_read = done / file.metadata.num_rows
                    yield record
    except (arrow.ArrowException, OSError) as e:
        if isinstance(e, OSError) and e.errno is not None:
            raise
        raise InputError(f"{source.name} is a damaged Parquet file ({e}). Copy it again.") from e


def _records(batch: Any, before: int) -> Iterator[Record]:
    """Rows of a batch, `before` others; one by one where a row holds what is no Python value."""
    try:
        rows = batch.to_pylist()
    except (ValueError, OverflowError):
        rows = None
    for n in range(batch.num_rows):
        try:
            yield Record(before + n + 1, rows[n] if rows else batch.slice(n, 1).to_pylist()[0])
        except UnicodeDecodeError:
            yield Record(before + n + 1, error="is not valid UTF-8")
        except (ValueError, OverflowError) as e:
            yield Record(before + n + 1, error=f"holds a value that cannot be read ({e})")
