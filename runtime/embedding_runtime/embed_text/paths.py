"""Checks the files that `embed-text` is given before anything is opened or computed."""

import argparse
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedding_runtime.embed_text.files.row_formats import STANDARD_DELIMITERS, RowFormat, choose_format
from embedding_runtime.embed_text.files.rows import DEFAULT_TEXT_FIELD, Fields, Row, read_rows
from embedding_runtime.embed_text.files.text_source import Source
from embedding_runtime.embed_text.files.writers import output_format
from embedding_runtime.errors import InputError

_STDIN, _STDOUT = 0, 1


@dataclass(frozen=True)
class Table:
    """How the rows of the input are read."""

    kind: RowFormat
    fields: Fields
    delimiter: str | None

    def rows(self, source: Source) -> Iterator[Row]:
        """The rows of the input; see `read_rows`."""
        return read_rows(source, self.kind, self.fields, self.delimiter)


def check_paths(arguments: argparse.Namespace, source: Path | None, output: Path | None) -> None:
    """Refuse files that are missing, cannot hold what is requested, or would overwrite each other.

    Raises:
        InputError: the message says which, and what to give instead.
    """
    kind = output_format(output)
    if arguments.into is not None and arguments.output is not None:
        raise InputError("--into FILE adds to a file, --output FILE writes a new one. Give only one of them.")
    if arguments.into == "-":
        raise InputError("--into adds to a file, and - is not one. Leave it out to write to standard output.")
    if arguments.json and output is None:
        raise InputError(
            "--json prints a report on standard output, so it needs --output FILE or --into FILE for the "
            "vectors."
        )
    if arguments.resume and output is None:
        raise InputError("--resume needs the --output FILE or --into FILE of the interrupted run.")
    if source is not None and not source.exists():
        raise InputError(f"No such file: {source}. Give the file of texts, or - for standard input.")
    if source is not None and source.is_dir():
        raise InputError(f"{source} is a folder; expected a file of texts.")
    for written in filter(None, (output, arguments.write_ranges and Path(arguments.write_ranges))):
        _check_written(written)
    _check_apart(source, output, arguments.write_ranges)
    if kind == "npy" and arguments.id_field:
        raise InputError("A .npy file holds vectors only. Write .jsonl or .parquet to keep --id-field.")
    if kind == "npy" and arguments.on_error == "null" and arguments.vector_precision != "float32":
        raise InputError(
            "A .npy file of integers has no null. Use --on-error skip, or write .jsonl or .parquet."
        )


def choose_table(source: Source, path: Path | None, arguments: argparse.Namespace) -> Table:
    """Find the format of the input; see `choose_format`.

    Raises:
        InputError: it cannot be found out, or an option does not apply to such an input.
    """
    text_field = DEFAULT_TEXT_FIELD if arguments.text_field is None else arguments.text_field
    named = Fields(text_field, arguments.title_field, arguments.id_field)
    kind = choose_format(source, path, arguments.input_format, named.names)
    if kind == "lines" and (arguments.text_field or arguments.title_field or arguments.id_field):
        raise InputError(
            f"{source.name} is read as plain lines, which have no fields. Name its format with "
            "--input-format, or leave out --text-field, --title-field and --id-field."
        )
    return Table(kind, named, _delimiter(arguments.delimiter, kind))


def _delimiter(delimiter: str | None, kind: RowFormat) -> str | None:
    if delimiter is None:
        return None
    if kind not in STANDARD_DELIMITERS:
        raise InputError(
            f"The input is {kind}, which has no delimiter. Say --input-format csv, or leave it out."
        )
    mark = {"tab": "\t", "\\t": "\t"}.get(delimiter, delimiter)
    if len(mark) != 1 or mark in '"\r\n':
        raise InputError(f"--delimiter is {delimiter!r}; expected one character other than a quote, or tab.")
    return mark


def read_ranges(path: Path | None, precision: str) -> Any:
    """The array in a file of --write-ranges; its shape is checked where it is used.

    Raises:
        InputError: not given, missing, or not a .npy file.
    """
    if path is None:
        raise InputError(
            f"--vector-precision {precision} needs --ranges FILE: make it from typical texts with "
            "--write-ranges."
        )
    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError as e:
        raise InputError(f"No such file: {path}. Make it with --write-ranges.") from e
    except (ValueError, EOFError) as e:
        raise InputError(f"{path} is not a .npy file of ranges. Make one with --write-ranges.") from e


def _check_apart(source: Path | None, output: Path | None, ranges: Path | None) -> None:
    """Refuse to write over what is read, or over what else is written, under whatever name."""
    read, written = source or _STDIN, output or _STDOUT
    if _is_one_file(written, read):
        raise InputError(f"The output {output or 'on standard output'} is the input; choose another file.")
    if ranges is not None and (_is_one_file(ranges, read) or _is_one_file(ranges, written)):
        which = "input" if _is_one_file(ranges, read) else "output"
        raise InputError(f"--write-ranges {ranges} is the {which}; choose another file.")


def _is_one_file(one: Path | int, other: Path | int) -> bool:
    """Whether two paths, or open descriptors, are one regular file, or will be."""
    if isinstance(one, Path) and isinstance(other, Path) and one.resolve() == other.resolve():
        return True
    try:
        found = [each.stat() if isinstance(each, Path) else os.fstat(each) for each in (one, other)]
    except OSError:  # not there yet, or closed
        return False
    return stat.S_ISREG(found[0].st_mode) and os.path.samestat(*found)


def _check_written(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected the name of a file to write.")
    if not path.parent.is_dir():
        raise InputError(f"There is no folder {path.parent} to write {path.name} in. Create it first.")
