"""Reads texts from a file or a pipe, row by row: lines, JSON, CSV, TSV or Parquet.

A row that cannot be read becomes a row with an error, so that the caller decides what to do about it.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from embedding_runtime.embed_text.files.delimited import read_delimited
from embedding_runtime.embed_text.files.records import Record
from embedding_runtime.embed_text.files.row_formats import STANDARD_DELIMITERS, RowFormat
from embedding_runtime.embed_text.files.text_source import Source
from embedding_runtime.errors import InputError
from embedding_runtime.manifest.decoding import unique_fields

DEFAULT_TEXT_FIELD = "text"
# What each row of the output has beside its id.
OWN_FIELDS = ("embedding", "error")
_object = partial(unique_fields, told="names the field {!r} twice")


class Row(NamedTuple):
    """One row: `line` is where it starts, counted from 1; a row with an `error` has no text."""

    line: int
    text: str = ""
    title: str | None = None
    id: Any = None
    error: str | None = None


@dataclass(frozen=True)
class Fields:
    """The fields of a record to read; plain lines have none."""

    text: str = DEFAULT_TEXT_FIELD
    title: str | None = None
    id: str | None = None

    def __post_init__(self) -> None:
        """Refuse names that would be lost.

        Raises:
            InputError: an empty name, or an id of a name that the output has for something else.
        """
        if "" in self.names:
            raise InputError("A field has an empty name. Give the field's name, or leave the option out.")
        if self.id in OWN_FIELDS:
            raise InputError(
                f"The field {self.id!r} cannot be the id: the output has another one of that name. Rename it."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the requested fields."""
        return tuple(n for n in (self.text, self.title, self.id) if n is not None)


def read_rows(source: Source, kind: RowFormat, fields: Fields, delimiter: str | None = None) -> Iterator[Row]:
    """Rows of a source; blank lines are empty texts in plain lines, and are skipped in other formats.

    Raises:
        InputError: a header that lacks a requested field or has it twice, or a damaged file.
        EngineError: the source is Parquet and pyarrow is not installed.
    """
    for record in read_records(source, kind, [fields.names], delimiter):
        if record.values is None:
            yield Row(record.line, error=record.error)
        elif kind == "lines":
            yield Row(record.line, record.values[DEFAULT_TEXT_FIELD])
        else:
            yield _row(record.line, record.values, fields)


def read_records(
    source: Source,
    kind: RowFormat,
    layouts: Sequence[Sequence[str]],
    delimiter: str | None = None,
    headerless: bool = False,
) -> Iterator[Record]:
    """Records of a source with their fields; a table must have all names of one of `layouts`.

    A plain line is the field "text"; a JSON string is the first field of the last layout. `headerless` allows
    a TSV without a header; see `read_delimited`.

    Raises:
        InputError, EngineError: as `read_rows`.
    """
    if kind == "lines":
        return _lines(source)
    if kind == "jsonl":
        return _jsonl(source, layouts[-1][0])
    if kind == "json":
        return _json(source, layouts[-1][0])
    if kind == "parquet":
        from embedding_runtime.embed_text.files.parquet_reader import read_parquet

        return read_parquet(source, layouts)
    return read_delimited(source, STANDARD_DELIMITERS[kind], delimiter, layouts, headerless and kind == "tsv")


def _lines(source: Source) -> Iterator[Record]:
    for n, line in enumerate(source.lines(universal=False), 1):
        text = line.removesuffix("\n").removesuffix("\r")
        error = _undecoded(text)
        yield Record(n, None if error else {DEFAULT_TEXT_FIELD: text}, error)


def _jsonl(source: Source, field: str) -> Iterator[Record]:
    for n, text in enumerate(source.lines(universal=True), 1):
        if not text.strip():
            continue
        try:
            if error := _undecoded(text):
                raise ValueError(error)
            value = json.loads(text, object_pairs_hook=_object)
        except (ValueError, RecursionError) as e:
            message = str(e) if str(e).startswith(("is not", "names")) else f"is not valid JSON ({e})"
            yield Record(n, error=message)
            continue
        yield _record(n, value, field)


def _json(source: Source, field: str) -> Iterator[Record]:
    """Elements of one JSON array, which is held in memory as a whole."""
    try:
        values = json.loads("".join(source.lines(universal=True)), object_pairs_hook=_object)
    except (ValueError, RecursionError) as e:
        raise InputError(
            f"{source.name} begins like a JSON array but is not one ({e}). If each line is a text or an "
            "object by itself, say so with --input-format lines or jsonl."
        ) from e
    if not isinstance(values, list):
        raise InputError(
            f"{source.name} is one JSON {type(values).__name__}; expected an array of objects or strings, or "
            "one object in each line (--input-format jsonl)."
        )
    for n, value in enumerate(values, 1):
        yield _record(n, value, field)


def _record(n: int, value: Any, field: str) -> Record:
    if isinstance(value, str):
        return Record(n, {field: value})
    if not isinstance(value, dict):
        return Record(n, error=f"is a {type(value).__name__}; expected an object or a string")
    return Record(n, value)


def _row(line: int, record: dict[str, Any], fields: Fields) -> Row:
    text = record.get(fields.text)
    title = record.get(fields.title) if fields.title else None
    key = _plain(record.get(fields.id)) if fields.id else None
    if not isinstance(text, str):
        fault = f"is {text!r:.40}" if fields.text in record else "is missing"
        return Row(line, id=key, error=f"has no text: the field {fields.text!r} {fault}")
    if title is not None and not isinstance(title, str):
        return Row(line, id=key, error=f"has a title that is not text: {title!r:.40}")
    if fields.id and fields.id not in record:
        return Row(line, error=f"has no field {fields.id!r}")
    error = _undecoded(text) or _undecoded(title or "") or _undecoded(key if isinstance(key, str) else "")
    return Row(line, text, title, key, error)


def _plain(value: Any) -> Any:
    """An id in a form that JSON can hold: Parquet also has dates, decimals, and NaN for what is missing."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value if isinstance(value, str | int | float | list | dict | None) else str(value)


def _undecoded(text: str) -> str | None:
    """An error if bytes could not be decoded. Surrogates that JSON spells out are not found here."""
    if text.isascii() or not any("\udc80" <= c <= "\udcff" for c in text):
        return None
    return "is not valid UTF-8"
