"""Records of a file that the user has named with an option, in any format that `embed-text` reads."""

from collections.abc import Iterator
from pathlib import Path

from embedding_runtime.embed_text.files.records import Record
from embedding_runtime.embed_text.files.row_formats import RowFormat, choose_format
from embedding_runtime.embed_text.files.rows import read_records
from embedding_runtime.embed_text.files.text_source import Source, open_source
from embedding_runtime.errors import InputError


def records(path: Path, option: str, layouts: tuple[tuple[str, ...], ...]) -> Iterator[Record]:
    """What is in the file, but for blank lines; see `read_records`.

    Raises:
        InputError: the file is missing, unreadable, of no known format, or has other fields.
        EngineError: it is a Parquet file, and pyarrow is not installed.
    """
    try:
        source = open_source(path)
        kind = _format(source, path, option, tuple(name for names in layouts for name in names))
        for record in read_records(source, kind, layouts, headerless=True):
            if kind != "lines" or record.error or (record.values or {})["text"].strip():
                yield record
    except OSError as e:
        raise InputError(f"The file {path} cannot be read ({e}). Check the path of {option}.") from e


def _format(source: Source, path: Path, option: str, names: tuple[str, ...]) -> RowFormat:
    try:
        return choose_format(source, path, None, names)
    except InputError as e:
        raise InputError(
            f"{e} Where a file is named with {option}, its own name says so: .txt, .jsonl, .json, .csv, "
            ".tsv or .parquet."
        ) from e


def text_of(record: Record, where: str) -> str:
    """The text of a record.

    Raises:
        InputError: it has none, or holds what is no text.
    """
    if record.error:
        raise InputError(
            f"Line {record.line} of {where} {record.error}. Expected an object with text, or text."
        )
    text = (record.values or {}).get("text")
    if not isinstance(text, str):
        raise InputError(
            f'Line {record.line} of {where} is {record.values!r:.60}. Expected an object such as {{"text": '
            '"..."}, or text.'
        )
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise InputError(
            f"Line {record.line} of {where} holds a lone surrogate, which is not text. Remove it, or save "
            "the file as UTF-8."
        )
    return text
