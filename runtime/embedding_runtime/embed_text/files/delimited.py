"""Reads records of CSV and TSV: the delimiter comes from the header; cells may hold line breaks."""

import csv
import io
import re
from collections import deque
from collections.abc import Iterator, Sequence

from embedding_runtime.embed_text.files.records import Record, check_names
from embedding_runtime.embed_text.files.text_source import Source
from embedding_runtime.errors import InputError

# A field may be as long as a book; the csv module's own limit is 128 KiB.
_FIELD_LIMIT = 1 << 30
_DELIMITERS = (",", ";", "\t", "|")
# The line that Excel reads, and writes, to say what the delimiter is.
_SEPARATOR = re.compile(r'"?sep=(.)"?[\r\n]*')


class _Lines:
    """Counts lines one by one; those of a record, except its first, can be given back."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines, self._back = lines, deque[str]()
        self.number, self.recent = 0, list[str]()

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._back.popleft() if self._back else next(self._lines)
        self.number += 1
        self.recent.append(line)
        return line

    def give_back(self) -> None:
        """Give back all lines since `recent` was emptied, except the first."""
        self._back.extendleft(reversed(self.recent[1:]))
        self.number -= len(self.recent) - 1


def read_delimited(
    source: Source,
    standard: str,
    delimiter: str | None,
    layouts: Sequence[Sequence[str]],
    headerless: bool = False,
) -> Iterator[Record]:
    """Records of a table; blank lines are skipped.

    Args:
        standard: the delimiter that the file's name implies, used if several are possible.
        delimiter: the requested one; None finds it in the header.
        layouts: lists of names; the header must have all names of one of them.
        headerless: if there is no such header, the columns are those of the layout with as many names.

    Raises:
        InputError: the header lacks names of every layout, or has one of them twice.
    """
    csv.field_size_limit(_FIELD_LIMIT)
    lines = _Lines(source.lines(universal=True))
    if separator := _SEPARATOR.fullmatch(source.head.splitlines()[0] if source.head else ""):
        next(lines)
        delimiter = delimiter or separator[1]
    head = source.head.split("\n", 1)[1] if separator and "\n" in source.head else source.head
    mark = delimiter or _delimiter_of(head, standard, layouts) or standard
    reader = csv.reader(lines, delimiter=mark, strict=True)
    if headerless and not _fits(_cells(head, mark), layouts):
        yield from _rows(reader, lines, mark, {len(names): names for names in layouts})
        return
    header = _header(reader, source)
    if header is not None:
        check_names(
            header, layouts, f"{source.name} is read with the delimiter {mark!r}; --delimiter says another."
        )
        yield from _rows(reader, lines, mark, {len(header): header})


def _delimiter_of(head: str, standard: str, layouts: Sequence[Sequence[str]]) -> str | None:
    """The first delimiter with which the header has the names of a layout."""
    marks = dict.fromkeys((standard, *_DELIMITERS))
    return next((m for m in marks if _fits(_cells(head, m), layouts)), None)


def _fits(header: Sequence[str], layouts: Sequence[Sequence[str]]) -> bool:
    return any(set(names) <= set(header) for names in layouts)


def _cells(head: str, delimiter: str) -> list[str]:
    return next(filter(None, csv.reader(io.StringIO(head, newline=""), delimiter=delimiter)), [])


def _header(reader: Iterator[list[str]], source: Source) -> list[str] | None:
    try:
        return next(filter(None, reader), None)
    except csv.Error as e:
        raise InputError(f"The header of {source.name} is not valid CSV ({e}). Write it again.") from e


def _rows(
    reader: Iterator[list[str]], lines: _Lines, mark: str, columns: dict[int, Sequence[str]]
) -> Iterator[Record]:
    """Records; the number of cells in a row selects the names of its columns."""
    while True:
        start = lines.number + 1
        lines.recent.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as e:
            # A quote that is never closed must not swallow the rows after it.
            lines.give_back()
            cells = lines.recent[0].rstrip("\r\n").split(mark)
            if mark != "\t" or len(cells) not in columns:  # in TSV a quote may be a quote
                yield Record(start, error=f"is not valid CSV ({e})")
                continue
        if not cells:
            continue
        if (names := columns.get(len(cells))) is None:
            counts = " or ".join(f"{n} ({', '.join(names)})" for n, names in sorted(columns.items()))
            yield Record(start, error=f"has {len(cells)} fields; expected {counts:.200}")
        else:
            yield Record(start, dict(zip(names, cells, strict=True)))
