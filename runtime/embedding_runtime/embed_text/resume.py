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
from embedding_runtime.errors import InputError
from embedding_runtime.machine.durable_file import replace_durably

NOTES_VERSION = 1
# Notes are at least this far apart, and further where the disk is slow: at most a part in 20 of the time.
INTERVAL_SECONDS = 1.0
_SHARE = 20


@dataclass(frozen=True)
class Mark:
    """The end of a block: rows of the input done and their digest, bytes of output, the report until then."""

    rows: int
    digest: str
    size: int
    report: dict[str, Any]


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
    """The notes of one output file; `settings` is everything that a row's bytes in it depend on."""

    def __init__(self, output: Path, settings: dict[str, Any]) -> None:
        self.path = notes_path(output)
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

    def clear(self) -> None:
        """Delete the notes."""
        with suppress(FileNotFoundError):
            self.path.unlink()

    def due(self) -> bool:
        """Whether it is time for the next note; the clock for its cost starts here."""
        self._started = time.monotonic()
        return self._started >= self._next

    def write(self, mark: Mark) -> None:
        """Record a mark; a power cut leaves these notes or the previous ones.

        Raises:
            OSError: they cannot be written; the previous ones stay.
        """
        data = {"version": NOTES_VERSION, "settings": self._settings, "mark": vars(mark)}
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
