"""`compare.json`: written after every case, read to go on with, put together from several. Measures nothing.

The document is {"schema_version", "runs": [run, ...]}; a run is one command on one machine (or one log of a
phone's tool, or a published figure: `origin` says which), and every figure on the page comes from here.
"""

import io
import json
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.errors import InputError
from embedding_validate.compare.document import drift as compare_drift
from embedding_validate.files import plain, replace_bytes, replace_text

JSON = "compare.json"
BASE = "base.npz"
SCHEMA_VERSION = 1
# Of a run's description, what must be the same for going on with it.
_SAME = ("plan", "systems", "bundles")

# Without these a run is none.
_NEEDED = {"label", "origin", "started", "cases"}

_NUMBERS = re.compile(r"\[[\s\d.,e+-]+\]")

Json = dict[str, Any]


class SchemaError(InputError):
    """A `compare.json` that another version wrote, or that holds no runs."""


class Store:
    """One run as it grows, in `folder`; every change is on the disk before the next is measured."""

    def __init__(self, folder: Path, run: Json, *, resume: bool) -> None:
        """Begin, or go on with the run that the folder holds.

        Raises:
            InputError: there is none to go on with, one of another plan or other files, or a damaged one.
            OSError: the folder cannot be written to.
        """
        self.folder, self.run = folder, plain(run)
        self.base: dict[str, NDArray[np.float32]] = {}
        if resume:
            self._resume()
        folder.mkdir(parents=True, exist_ok=True)
        self.write()

    def add(self, kind: str, entry: Json) -> None:
        """Add an entry to `openings`, `cases` or `tokenizers`, in place of one that was interrupted."""
        self.run[kind].append(plain(entry))
        self.write()

    def keep_base(self) -> None:
        """Keep the accuracy base's vectors for a run that goes on later."""
        buffer = io.BytesIO()
        np.savez(buffer, **self.base)  # type: ignore[arg-type]
        replace_bytes(self.folder / BASE, buffer.getvalue())

    def write(self) -> Path:
        """Write the document as it is now."""
        compare_drift.mark(self.run["cases"])
        document = {"schema_version": SCHEMA_VERSION, "runs": [self.run]}
        return replace_text(self.folder / JSON, dumps(document))

    def _resume(self) -> None:
        runs = load(self.folder / JSON)["runs"]
        differing = [
            name for name in _SAME if len(runs) != 1 or _said(runs[0], name) != _said(self.run, name)
        ]
        if differing:
            raise InputError(
                f"{self.folder / JSON} is of another comparison (its {', '.join(differing)} differ). Repeat "
                "the command that was interrupted, or take another --output."
            )
        resumed = [*runs[0].get("resumed", []), self.run["started"]]
        self.run = {**runs[0], "systems": self.run["systems"], "resumed": resumed}
        self.base = _vectors(self.folder / BASE)


def _vectors(path: Path) -> dict[str, NDArray[np.float32]]:
    """What `keep_base` kept; nothing where the run did not come so far."""
    try:
        with np.load(path, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as e:
        raise InputError(
            f"{path} is damaged ({type(e).__name__}: {e}), and accuracy cannot be told without it. Begin the "
            "comparison anew, without --resume."
        ) from e


def _said(run: Json, name: str) -> Any:
    """Part of a run's description, without verdicts: graphs may have been validated meanwhile."""
    if name != "systems":
        return run[name]
    return [{k: v for k, v in system.items() if k != "parity"} for system in run[name]]


def dumps(document: Json) -> str:
    """The document as it stands in the file, lists of numbers on a line each."""
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    return _NUMBERS.sub(lambda found: f"[{' '.join(found[0][1:-1].split())}]", text) + "\n"


def load(path: Path) -> Json:
    """Read a `compare.json`.

    Raises:
        SchemaError: of a schema version this code does not know, or without runs.
        InputError: unreadable, or something else.
    """
    try:
        data: Json = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise InputError(f"{path} cannot be read ({e}). Expected a file that compare-embedding wrote.") from e
    if not isinstance(data, dict) or "schema_version" not in data:
        raise InputError(f"{path} has no schema_version. Expected a file that compare-embedding wrote.")
    if (found := data["schema_version"]) != SCHEMA_VERSION:
        raise SchemaError(
            f"{path} has schema_version {found!r}; this version reads {SCHEMA_VERSION}. Measure again with "
            "this version of compare-embedding."
        )
    runs = data.get("runs")
    if not isinstance(runs, list) or not all(isinstance(r, dict) and r.keys() >= _NEEDED for r in runs):
        raise SchemaError(f"{path} holds no runs. Expected a file that compare-embedding wrote.")
    return data


def merge(documents: Sequence[Json]) -> Json:
    """All runs on one page; a run that is there twice (begun at one moment, on one machine) stays once."""
    runs: dict[tuple[str, str, str], Json] = {}
    for run in (run for document in documents for run in document["runs"]):
        runs.setdefault((run["started"], run["label"], run["origin"]), run)
    return {"schema_version": SCHEMA_VERSION, "runs": list(runs.values())}


def key(case: Json) -> str:
    """A case's name within its run, as `document.case.Case.key`."""
    shape = str(case["tokens"]) if case["batch"] == 1 else f"{case['batch']}x{case['tokens']}"
    return f"{case['system']} | {case['threads']} threads | {shape}"
