"""Finds the format of an input: the requested one, else by the file's name, or by unambiguous content."""

import csv
import json
import re
from pathlib import Path
from typing import Literal

from embedding_runtime.embed_text.files.text_source import Source
from embedding_runtime.errors import InputError

RowFormat = Literal["lines", "jsonl", "json", "csv", "tsv", "parquet"]
FORMATS: tuple[RowFormat, ...] = ("lines", "jsonl", "json", "csv", "tsv", "parquet")
STANDARD_DELIMITERS = {"csv": ",", "tsv": "\t"}
_SUFFIXES: dict[str, RowFormat] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}
# How an array of objects or strings begins, on one line or on several; a text would not.
_ARRAY = re.compile(r'\s*\[\s*[{"\]]')
# An object that continues on the next line, as jq and json.dump(indent=...) write.
_OPENED = re.compile(r'\s*\{\s*(?:"|$)')


def choose_format(
    source: Source, path: Path | None, requested: RowFormat | None, names: tuple[str, ...]
) -> RowFormat:
    """The format of an input.

    Args:
        requested: the format that the user names; None finds it.
        names: field names; a file whose name does not tell is a table if its header has one of them.

    Raises:
        InputError: name and content do not tell the format, or contradict the requested one.
    """
    suffix = _suffix(path)
    if source.parquet != (requested == "parquet") and (source.parquet or requested) and requested is not None:
        kind = "a Parquet file" if source.parquet else "not a Parquet file"
        raise InputError(f"{source.name} is {kind}. Leave out --input-format {requested}.")
    if requested or source.parquet:
        return requested or "parquet"
    if suffix == ".parquet":
        raise InputError(
            f"{source.name} is not a Parquet file, despite its name. Name its format with --input-format."
        )
    return _SUFFIXES.get(suffix) or _by_content(source, suffix == ".json", names)


def _suffix(path: Path | None) -> str:
    """The last suffix, without that of a compressed file."""
    if path is None:
        return ""
    named = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return named.suffix.lower()


def _by_content(source: Source, json_named: bool, names: tuple[str, ...]) -> RowFormat:
    first = next((line for line in source.head.splitlines() if line.strip()), "")
    if not first:
        return "lines"
    if _is_object(first):
        return "jsonl"
    if _ARRAY.match(source.head) or (json_named and source.head.lstrip().startswith("[")):
        return "json"
    if json_named or _OPENED.match(first):
        raise InputError(
            f"{source.name} looks like JSON, but is neither an array nor one object per line "
            f"({first.strip()[:40]!r}). Rewrite it (jq -c . FILE), or name its format with --input-format "
            "json, jsonl or lines."
        )
    for mark in (",", ";", "\t", "|"):
        cells = next(csv.reader([first], delimiter=mark), [])
        if len(cells) > 1 and set(names) & set(cells):
            raise InputError(
                f"{source.name} looks like a table ({first.strip()[:60]!r}). Say so with --input-format csv, "
                "or --input-format lines if each line is a text."
            )
    return "lines"


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
