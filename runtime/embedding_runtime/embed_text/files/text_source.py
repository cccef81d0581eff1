"""Opens a file or a pipe of text: recognizes the content by its first bytes, unpacks and decodes it.

The text is UTF-8 unless the first bytes say otherwise: gzip, UTF-16 and UTF-32 are recognized by their marks.
Content that is certainly not text is refused.
"""

import codecs
import io
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from embedding_runtime.errors import InputError

PARQUET = b"PAR1"
_GZIP = b"\x1f\x8b\x08"
# First bytes of what is not text, what it is called, and what its owner does to get one.
_REFUSED: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "a zip archive", "Unpack it, and give the file inside."),
    (b"PK\x05\x06", "an empty zip archive", "Give a file of texts."),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel or Word file", "Save it as CSV UTF-8."),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", "Unpack it with: zstd -d FILE"),
    (b"\xfd7zXZ\x00", "packed with xz", "Unpack it with: xz -d FILE"),
    (b"\x04\x22\x4d\x18", "packed with lz4", "Unpack it with: lz4 -d FILE"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "Unpack it, and give the file inside."),
    (b"ARROW1\x00\x00", "an Arrow or Feather file", "Write it as Parquet, CSV or JSONL."),
    (b"%PDF-", "a PDF document", "Extract its text first."),
)
_BZIP2 = b"1AY&SY"
# Parts of a zip archive that only these programs write.
_OFFICE = (
    (b"xl/", "an Excel workbook", "Save the sheet as CSV UTF-8."),
    (b"opendocument.spreadsheet", "an OpenDocument sheet", "Save the sheet as CSV in UTF-8."),
    (b"word/", "a Word document", "Save it as plain text in UTF-8."),
)
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (codecs.BOM_UTF8, "utf-8"),
)
_HEAD = 1 << 16
# A first line of JSON may be as long as a book.
_LONGEST_FIRST_LINE = 1 << 26


class _Begun(io.RawIOBase):
    """A stream that starts from its beginning although some of it has been read; `count` is the bytes handed
    out."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._head, self.count = stream, b"", 0
        self._rewinds = stream.seekable() and stream.tell() == 0

    def readable(self) -> bool:
        """Part of io's interface."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Part of io's interface: first the bytes already looked at, then those that the stream has now."""
        view = memoryview(buffer)
        data = self._head[: len(view)] or self._more(len(view))
        self._head = self._head[len(data) :]
        view[: len(data)] = data
        self.count += len(data)
        return len(data)

    def look(self, enough: Callable[[bytes], bool]) -> bytes:
        """The first bytes; a pipe is read only until `enough(bytes)` is true, because it may stay open."""
        while not enough(self._head):
            more = self._more(_HEAD)
            if not more:
                break
            self._head += more
        return self._head

    def rewound(self) -> BinaryIO | None:
        """The stream at its beginning; None if it is none that can be read again."""
        if self._rewinds:
            self._stream.seek(0)
        return self._stream if self._rewinds else None

    def _more(self, count: int) -> bytes:
        data: bytes = cast(Any, self._stream).read1(count)
        return data


class Source:
    """An open input as text; knows how much of it has been read.

    Attributes:
        name: the file's, for messages.
        parquet: it is a Parquet file, which has no lines; see `seekable`.
        head: at least its first line, decoded.
    """

    def __init__(self, stream: BinaryIO, size: int | None, name: str) -> None:
        """`size` is the number of bytes to come, None if unknown.

        Raises:
            InputError: it is certainly not text, or damaged.
        """
        self.name, self._size = name, size
        self._bytes = self._unpacked = _Begun(stream)
        self.share_read: float | None = None
        first = self._bytes.look(_first_line)
        if first.startswith(_GZIP):
            import gzip

            self._unpacked = _Begun(cast(BinaryIO, gzip.GzipFile(fileobj=io.BufferedReader(self._bytes))))
            with self._named():
                first = self._unpacked.look(_first_line)
        self.parquet = first.startswith(PARQUET)
        self._mark, self._encoding = b"", "utf-8"
        self.head = "" if self.parquet else self._decoded(first)

    def lines(self, universal: bool) -> Iterator[str]:
        """Lines with their ends; a carriage return also ends a line if `universal`, or if nothing else does.

        Bytes that are not UTF-8 become lone surrogates, which no UTF-8 can hold.

        Raises:
            InputError: packed or 16-bit data that ends in the middle, or is damaged.
        """
        universal = universal or ("\r" in self.head and "\n" not in self.head)
        errors = "surrogateescape" if self._encoding == "utf-8" else "surrogatepass"
        stream = io.BufferedReader(self._unpacked)
        stream.read(len(self._mark))
        text = io.TextIOWrapper(stream, self._encoding, errors, newline="" if universal else "\n")
        with self._named():
            yield from text

    def seekable(self) -> BinaryIO:
        """The whole input: the file itself, or of a pipe and what is packed a temporary copy."""
        import shutil
        import tempfile

        if self._unpacked is self._bytes and (whole := self._bytes.rewound()):
            return whole
        file = tempfile.TemporaryFile()  # noqa: SIM115 (its reader closes it)
        with self._named():
            shutil.copyfileobj(io.BufferedReader(self._unpacked), file)
        file.seek(0)
        return cast(BinaryIO, file)

    @property
    def fraction(self) -> float | None:
        """The share of the input that has been read, from 0 to 1; None if its size is unknown."""
        if self.share_read is not None:
            return self.share_read
        return min(1.0, self._bytes.count / self._size) if self._size else None

    def _decoded(self, first: bytes) -> str:
        _refuse(first, self.name)
        self._mark, self._encoding = _encoding(first, self.name)
        head = _text(first[len(self._mark) :], self._encoding)
        if head.lstrip()[:1] in ("{", "[") and "\n" not in head:
            more = self._unpacked.look(lambda b: b"\n" in b or len(b) > _LONGEST_FIRST_LINE)
            head = _text(more[len(self._mark) :], self._encoding)
        return head

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Turns the exceptions that reading raises for damaged data into an InputError."""
        try:
            yield
        except (EOFError, zlib.error) as e:
            raise InputError(f"{self.name} is damaged or cut off ({e}). Copy it again.") from e
        except UnicodeDecodeError as e:
            raise InputError(
                f"{self.name} is {self._encoding.upper()} and is damaged or cut off ({e.reason}). Save it "
                "again, as UTF-8."
            ) from e
        except OSError as e:
            if e.errno is not None:
                raise
            raise InputError(f"{self.name} is damaged ({e}). Copy it again.") from e


def open_source(path: Path | None) -> Source:
    """Open a file, or standard input for None.

    Raises:
        OSError: it cannot be opened.
        InputError: standard input is closed, or the input is certainly not text.
    """
    if path is None:
        if sys.stdin is None:
            raise InputError("Standard input is closed; give a FILE, or a pipe.")
        return Source(cast(BinaryIO, sys.stdin.buffer), None, "standard input")
    return Source(path.open("rb"), path.stat().st_size or None, path.name)


def _first_line(begun: bytes) -> bool:
    return len(begun) >= _HEAD or (len(begun) >= 16 and b"\n" in begun)


def _refuse(first: bytes, name: str) -> None:
    refusal = next(((what, do) for mark, what, do in _REFUSED if first.startswith(mark)), None)
    if first.startswith(b"PK\x03\x04"):
        refusal = next(((what, do) for part, what, do in _OFFICE if part in first), refusal)
    if first.startswith(b"BZh") and first[4:10] == _BZIP2:
        refusal = ("packed with bzip2", "Unpack it with: bzip2 -d FILE")
    if first.startswith(_GZIP):
        refusal = ("packed with gzip twice", "Unpack it with: gzip -d FILE")
    if refusal:
        raise InputError(f"{name} is {refusal[0]}, which is not text. {refusal[1]}")


def _encoding(first: bytes, name: str) -> tuple[bytes, str]:
    """A byte order mark and the encoding; without one, zeros in every other byte mean UTF-16."""
    for mark, encoding in _MARKS:
        if first.startswith(mark):
            return mark, encoding
    zeros = first.count(0)
    if zeros * 4 >= len(first) > 1:
        if not first[::2].count(0):
            return b"", "utf-16-le"
        if not first[1::2].count(0):
            return b"", "utf-16-be"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(first)
        binary = zeros * 10 > len(first)
    except UnicodeDecodeError:
        binary = zeros > 0
    if binary:
        raise InputError(f"{name} is not text: it has zero bytes, and is not UTF-16. Give texts in UTF-8.")
    return b"", "utf-8"


def _text(data: bytes, encoding: str) -> str:
    return codecs.getincrementaldecoder(encoding)("replace").decode(data)
