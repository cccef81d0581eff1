"""`compare.json` as a file: written after every case, read to resume a run, merged from several files.

`document.document` defines its fields.
"""

import io
import json
import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.errors import InputError
from embedding_validate.compare.document import drift
from embedding_validate.compare.document.browser import BrowserRun
from embedding_validate.compare.document.case import Case
from embedding_validate.compare.document.document import (
    SCHEMA_VERSION,
    AccountEntry,
    AnyRun,
    Document,
    Opening,
    Run,
)
from embedding_validate.files import make_folder, replace_bytes, replace_text
from embedding_validate.records import RecordError

JSON = "compare.json"
BASE = "base.npz"
# Parts of a run's description that must be the same for resuming it.
_SAME = ("plan", "systems", "bundles")

_NUMBERS = re.compile(r"\[[\s\d.,e+-]+\]")


class SchemaError(InputError):
    """A `compare.json` that another version wrote, or that holds no runs."""


class Store:
    """One run as it grows, in `folder`; every change is on the disk before the next is measured.

    What phones' browsers measured into the folder stays beside it.
    """

    def __init__(self, folder: Path, run: Run, *, resume: bool) -> None:
        """Begin a run, or resume the one that the folder holds.

        Raises:
            InputError: there is none to resume, or one of another plan or other files, or a damaged one; or
                the folder's name is a file's.
            OSError: the folder cannot be written to.
        """
        self.folder, self.run = folder, run
        self.base: dict[str, NDArray[np.float32]] = {}
        self._browsers = _browsers(folder / JSON)
        if resume:
            self._resume()
        make_folder(folder)
        self.write()

    def add_tokenizer(self, case: Case) -> None:
        """Add the case of a tokenizer."""
        self.change(tokenizers=(*self.run.tokenizers, case))

    def add_opening(self, opening: Opening) -> None:
        """Add an opening."""
        self.change(openings=(*self.run.openings, opening))

    def add_case(self, case: Case) -> None:
        """Add a case, and mark those beside which it shows that the machine was slower."""
        self.change(cases=drift.marked((*self.run.cases, case)))

    def add_account(self, account: AccountEntry) -> None:
        """Add an account of a graph's time."""
        self.change(accounts=(*self.run.accounts, account))

    def change(self, **fields: Any) -> None:
        """Replace fields of the run, and write it."""
        self.run = replace(self.run, **fields)
        self.write()

    def keep_base(self) -> None:
        """Keep the accuracy base's vectors for a run that is resumed later."""
        buffer = io.BytesIO()
        np.savez(buffer, **self.base)  # type: ignore[arg-type]
        replace_bytes(self.folder / BASE, buffer.getvalue())

    def write(self) -> Path:
        """Write the document as it is now."""
        return replace_text(self.folder / JSON, dumps(Document((self.run, *self._browsers))))

    def _resume(self) -> None:
        document = load(self.folder / JSON)
        others = len(document.runs) - len(self._browsers)
        before = document.measured[0] if others == len(document.measured) == 1 else None
        differing = [
            name for name in _SAME if before is None or _described(before, name) != _described(self.run, name)
        ]
        if before is None or differing:
            raise InputError(
                f"{self.folder / JSON} is of another comparison (other {', '.join(differing)}). Repeat "
                "the command that was interrupted, or take another --output."
            )
        resumed = (*(before.resumed or ()), self.run.started)
        self.run = replace(before, systems=self.run.systems, resumed=resumed)
        self.base = _vectors(self.folder / BASE)


def _browsers(path: Path) -> tuple[BrowserRun, ...]:
    """What browsers measured, in a file that another comparison wrote; nothing where it cannot be read."""
    try:
        return tuple(run for run in load(path).runs if isinstance(run, BrowserRun))
    except InputError:
        return ()


def _vectors(path: Path) -> dict[str, NDArray[np.float32]]:
    """The vectors that `keep_base` saved; empty if the run did not get that far."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as e:
        raise InputError(
            f"{path} is damaged ({type(e).__name__}: {e}), and accuracy cannot be measured without it. "
            "Repeat the comparison without --resume."
        ) from e


def _described(run: Run, name: str) -> Any:
    """Part of a run's description, without verdicts: graphs may have been validated in the meantime."""
    if name != "systems":
        return getattr(run, name)
    return [{k: v for k, v in vars(entry).items() if k != "parity"} for entry in run.systems]


def dumps(document: Document) -> str:
    """The document as written to the file, with each list of numbers on one line."""
    text = json.dumps(document.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
    return _NUMBERS.sub(lambda match: f"[{' '.join(match[0][1:-1].split())}]", text) + "\n"


def load(path: Path) -> Document:
    """Read a `compare.json`.

    Raises:
        SchemaError: of a schema version that this code does not know, or with fields that it does not.
        InputError: unreadable, or something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise InputError(f"{path} cannot be read ({e}). Expected a file that compare-embedding wrote.") from e
    if not isinstance(data, dict) or "schema_version" not in data:
        raise InputError(f"{path} has no schema_version. Expected a file that compare-embedding wrote.")
    if (version := data["schema_version"]) != SCHEMA_VERSION:
        raise SchemaError(
            f"{path} has schema_version {version!r}; this version reads {SCHEMA_VERSION}. Measure again with "
            "this version of compare-embedding."
        )
    try:
        return Document.from_json(data)
    except RecordError as e:
        raise SchemaError(
            f"{path} holds no runs that this version reads ({e}). Expected a file that this version of "
            "compare-embedding wrote: measure again, or use the version that wrote it."
        ) from e


def merge(documents: Sequence[Document]) -> Document:
    """All runs in one document; a run that appears twice (same start, same machine) is kept once."""
    runs: dict[tuple[str, str, str], AnyRun] = {}
    for run in (run for document in documents for run in document.runs):
        runs.setdefault((run.started, run.label, run.origin), run)
    return Document(tuple(runs.values()))
