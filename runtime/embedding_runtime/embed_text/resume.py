"""Records where a run of `embed-text` stands, in a small file beside its output, so that it can be resumed.

The position is recorded only at the end of a full window of texts. A run that resumes there groups the rest
of the texts into the same batches, and so writes the same bytes.
"""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedding_runtime.embed_text.files.rows import Row
from embedding_runtime.embed_text.files.writers import HEADER_BYTES
from embedding_runtime.errors import InputError
from embedding_runtime.machine.durable_file import replace_durably

NOTES_VERSION = 2
# Bytes of the output before a mark by which it is known again.
_TAIL = 1 << 16
# Notes are at least this far apart, and further where the disk is slow: at most a part in 20 of the time.
INTERVAL_SECONDS = 1.0
_SHARE = 20


@dataclass(frozen=True)
class Mark:
    """The end of a block: rows of the input done and their digest, bytes of output, the report until then.

    `tail` is a digest of the last of those bytes.
    """

    rows: int
    digest: str
    size: int
    report: dict[str, Any]
    tail: str = ""


class Digest:
    """A digest of rows in their order; it tells whether an input begins with the rows that an earlier run has
    read."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, row: Row) -> None:
        """Add a row; its line number does not count."""
        self._hash.update(repr(row[1:]).encode())

    def hex(self) -> str:
        """The digest of the rows so far, in hex."""
        return self._hash.hexdigest()


def notes_path(output: Path) -> Path:
    """The path of an output file's notes."""
    return output.with_name(f".{output.name}.resume")


def noted_settings(output: Path) -> dict[str, Any]:
    """The settings of an interrupted run; empty if its notes cannot be read, which `Notes.read` reports."""
    try:
        settings = json.loads(notes_path(output).read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return settings if isinstance(settings, dict) else {}


class Notes:
    """The notes of one output file; `settings` is everything that a row's bytes in it depend on.

    `written` is the file that its rows are in until it is closed.
    """

    def __init__(self, output: Path, settings: dict[str, Any], written: Path | None = None) -> None:
        self.path = notes_path(output)
        self.written = written or output
        self._settings = settings
        self._started = time.monotonic()
        self._next = self._started + INTERVAL_SECONDS

    def read(self) -> Mark | None:
        """The mark of an interrupted run; None if there is nothing to resume.

        Raises:
            InputError: the notes are of a run with other settings, or cannot be read.
        """
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
            if data["version"] != NOTES_VERSION:
                raise ValueError(f"version {data['version']!r}")
            noted, mark = data["settings"], Mark(**data["mark"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise InputError(f"{self.path} cannot be read ({e}). Leave out --resume to start again.") from e
        now = json.loads(json.dumps(self._settings))
        if other := [k for k in {**noted, **now} if noted.get(k) != now.get(k)]:
            was, current = ({k: s.get(k) for k in other} for s in (noted, now))
            raise InputError(
                f"The interrupted run had {was}, this one has {current}. Give the same options, or leave out "
                "--resume to start again."
            )
        return mark

    def check_output(self, mark: Mark) -> None:
        """Refuse an output that another program has written since.

        Raises:
            InputError: it is shorter than at the mark, or has other bytes before it.
        """
        if (size := self.written.stat().st_size) < mark.size:
            raise InputError(
                f"{self.written} has {size} bytes; the interrupted run had written {mark.size}. Leave out "
                "--resume to start again."
            )
        if self._tail(mark.size) != mark.tail:
            raise InputError(
                f"{self.written} is not the file that the interrupted run has left: its rows are others. Put "
                "that file back, or leave out --resume to start again, which replaces this one."
            )

    def _tail(self, size: int) -> str:
        start = max(HEADER_BYTES, size - _TAIL)  # the header of .npy changes with each block
        if size <= start:
            return ""
        with self.written.open("rb") as file:
            file.seek(start)
            return hashlib.blake2b(file.read(size - start), digest_size=16).hexdigest()

    def clear(self) -> None:
        """Delete the notes."""
        with suppress(FileNotFoundError):
            self.path.unlink()

    def due(self) -> bool:
        """Whether it is time for the next note; the clock for its cost starts here."""
        self._started = time.monotonic()
        return self._started >= self._next

    def write(self, mark: Mark) -> None:
        """Record a mark, its tail filled in; a power cut leaves these notes or the previous ones.

        Raises:
            OSError: they cannot be written; the previous ones stay.
        """
        noted = {**vars(mark), "tail": self._tail(mark.size)}
        data = {"version": NOTES_VERSION, "settings": self._settings, "mark": noted}
        replace_durably(self.path, json.dumps(data), self.path.with_name(f"{self.path.name}.new"))
        now = time.monotonic()
        self._next = now + max(INTERVAL_SECONDS, _SHARE * (now - self._started))


def pass_over(rows: Iterator[Row], mark: Mark, digest: Digest) -> None:
    """Skip the rows that are done: read them and add them to `digest`.

    Raises:
        InputError: the input does not begin with them.
    """
    for done in range(mark.rows):
        row = next(rows, None)
        if row is None:
            raise InputError(
                f"The interrupted run had read {mark.rows} rows, but the input has {done}. Give the same "
                "input, or leave out --resume to start again."
            )
        digest.add(row)
    if digest.hex() != mark.digest:
        raise InputError(
            f"The first {mark.rows} rows of the input are not those of the interrupted run. Give the same "
            "input, or leave out --resume to start again."
        )
