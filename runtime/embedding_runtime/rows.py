"""Texts from a file or a pipe, row by row: lines, JSONL, CSV or TSV. Knows nothing of vectors.

A row that cannot be read is a row with an error, so that the reader of the rows decides what becomes of it.
"""

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from embedding_runtime.errors import InputError

RowFormat = Literal["lines", "jsonl", "csv", "tsv"]
SUFFIXES: dict[str, RowFormat] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}
DEFAULT_TEXT_FIELD = "text"
# A field may be as long as a book; the csv module's own limit is 128 KiB.
_FIELD_LIMIT = 1 << 30


class Row(NamedTuple):
    """One row: `line` is where it starts, counted from 1; with an `error` there is no text."""

    line: int
    text: str = ""
    title: str | None = None
    id: Any = None
    error: str | None = None


@dataclass(frozen=True)
class Fields:
    """Which fields of a record to read; for plain lines there are none."""

    text: str = DEFAULT_TEXT_FIELD
    title: str | None = None
    id: str | None = None


class Source:
    """An open input: its lines, decoded, with a count of lines and bytes read so far."""

    def __init__(self, stream: BinaryIO, size: int | None) -> None:
        """`size` is the number of bytes to come, None where that is not known."""
        self._stream, self._size = stream, size
        self.lines = self.bytes = 0

    def __iter__(self) -> Iterator[str]:
        for raw in self._stream:
            self.lines += 1
            self.bytes += len(raw)
            # Bytes that are not UTF-8 become lone surrogates, which no UTF-8 can hold: seen again below.
            text = raw.decode("utf-8", "surrogateescape")
            yield text.removeprefix("\ufeff") if self.lines == 1 else text

    @property
    def fraction(self) -> float | None:
        """How much of the input is read, from 0 to 1; None where its size is not known."""
        return min(1.0, self.bytes / self._size) if self._size else None


def guess_format(path: Path | None) -> RowFormat:
    """By the file's suffix; lines for anything else, and for standard input."""
    return SUFFIXES.get(path.suffix.lower(), "lines") if path else "lines"


def open_source(path: Path | None) -> Source:
    """Open a file, or standard input for None.

    Raises:
        OSError: it cannot be opened.  InputError: standard input is closed.
    """
    if path is None:
        if sys.stdin is None:
            raise InputError("Standard input is closed; give a FILE, or a pipe.")
        return Source(sys.stdin.buffer, None)
    stream = path.open("rb")
    return Source(stream, path.stat().st_size or None)


def read_rows(source: Source, kind: RowFormat, fields: Fields) -> Iterator[Row]:
    """Rows of a source; blank lines are empty texts in plain lines, and are passed over elsewhere.

    Raises:
        InputError: a CSV or TSV header that lacks a field asked for.
    """
    if kind == "lines":
        return (_line_row(source.lines, line) for line in source)
    if kind == "jsonl":
        return _jsonl_rows(source, fields)
    return _csv_rows(source, "," if kind == "csv" else "\t", fields)


def _line_row(line: int, text: str) -> Row:
    text = text.removesuffix("\n").removesuffix("\r")
    return Row(line, text, error=_undecoded(text))


def _jsonl_rows(source: Source, fields: Fields) -> Iterator[Row]:
    for text in source:
        if not text.strip():
            continue
        try:
            if error := _undecoded(text):
                raise ValueError(error)
            record = json.loads(text)
        except (ValueError, RecursionError) as e:
            message = str(e) if str(e).startswith("is not") else f"is not valid JSON ({e})"
            yield Row(source.lines, error=message)
            continue
        if isinstance(record, str):
            record = {fields.text: record}
        if not isinstance(record, dict):
            yield Row(source.lines, error=f"is a {type(record).__name__}; expected an object or a string")
            continue
        yield _record_row(source.lines, record, fields)


def _csv_rows(source: Source, delimiter: str, fields: Fields) -> Iterator[Row]:
    csv.field_size_limit(_FIELD_LIMIT)
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    header = next(reader, None)
    if header is None:
        return
    wanted = [f for f in (fields.text, fields.title, fields.id) if f is not None]
    if missing := [f for f in wanted if f not in header]:
        raise InputError(
            f"The header has the fields {header}, not {missing}. Name them with --text-field etc."
        )
    yield from _csv_records(reader, header, source, fields)


def _csv_records(
    reader: Iterable[list[str]], header: list[str], source: Source, fields: Fields
) -> Iterator[Row]:
    records, start = iter(reader), source.lines + 1
    while True:
        try:
            cells = next(records)
        except StopIteration:
            return
        except csv.Error as e:
            yield Row(start, error=f"is not valid CSV ({e})")
            start = source.lines + 1
            continue
        if cells:
            yield _cells_row(start, cells, header, fields)
        start = source.lines + 1


def _cells_row(line: int, cells: list[str], header: list[str], fields: Fields) -> Row:
    if len(cells) != len(header):
        return Row(line, error=f"has {len(cells)} fields; the header has {len(header)}")
    return _record_row(line, dict(zip(header, cells, strict=True)), fields)


def _record_row(line: int, record: dict[str, Any], fields: Fields) -> Row:
    text = record.get(fields.text)
    title = record.get(fields.title) if fields.title else None
    key = record.get(fields.id) if fields.id else None
    if not isinstance(text, str):
        found = f"is {text!r:.40}" if fields.text in record else "is missing"
        return Row(line, id=key, error=f"has no text: the field {fields.text!r} {found}")
    if title is not None and not isinstance(title, str):
        return Row(line, id=key, error=f"has a title that is no text: {title!r:.40}")
    if fields.id and fields.id not in record:
        return Row(line, error=f"has no field {fields.id!r}")
    error = _undecoded(text) or _undecoded(title or "") or _undecoded(key if isinstance(key, str) else "")
    return Row(line, text, title, key, error)


def _undecoded(text: str) -> str | None:
    """An error where bytes could not be decoded; JSON may spell other surrogates, not seen here."""
    if text.isascii() or not any("\udc80" <= c <= "\udcff" for c in text):
        return None
    return "is not valid UTF-8"
