"""Embeds one Parquet file of texts into one stamped Parquet file of vectors, all or nothing.

Rows go to a folder of the attempt's own. A finished file is flushed to the disk and renamed into place, so
that a file under its name is complete, whichever worker was killed, and however many attempted it at once.
It names what it was made of: the SHA-256 of the texts' file, and the columns and rules.
"""

import errno
import hashlib
import json
import os
import pickle
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from embedding_runtime.corpus.report import FileReport
from embedding_runtime.corpus.settings import CorpusSettings
from embedding_runtime.embed_text.files.parquet_writer import ParquetWriter, damage_told, import_pyarrow
from embedding_runtime.embed_text.files.rows import read_rows
from embedding_runtime.embed_text.files.text_source import open_source
from embedding_runtime.embed_text.job import Job
from embedding_runtime.embed_text.plan import planned_stamp
from embedding_runtime.errors import InputError
from embedding_runtime.machine.durable_file import place_durably
from embedding_runtime.stamps.files import PARQUET_KEY, read_stamp, stored_as

SOURCE_KEY = "embedding_source"
# Names that cannot be given, whatever the disk.
_NAMES = (errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG)
# The folder of unfinished files, in each folder of vectors; empty folders are removed.
ATTEMPTS = ".attempts"


class FileEmbedder:
    """A bundle opened once, for all the files that a worker embeds."""

    def __init__(self, settings: CorpusSettings) -> None:
        """Open the bundle.

        Raises:
            BundleError, EngineError, InputError: as `Embedder`.
        """
        self._settings = settings
        self._embedder = settings.open_bundle()
        self._plan = settings.plan(self._embedder)
        self._stamp = planned_stamp(self._embedder, self._plan)

    def embed(self, name: str) -> FileReport:
        """Embed a file, unless its vectors are there already; a file that cannot be embedded is reported.

        Raises:
            EngineError, OSError: the engine or the disk failed; there is no output.
        """
        source, output = Path(self._settings.source, name), Path(self._settings.output, name)
        try:
            state = _state(source)
            made_of = self._made_of(source)
            if not output.exists():
                try:
                    return self._write(name, source, output, made_of, state)
                except (FileNotFoundError, FileExistsError):
                    if not output.exists():
                        raise
                    # Another attempt finished first, and may have removed the folder of this one.
            rows = self._check_finished(output, made_of)
        except InputError as e:
            return FileReport(name, "failed", error=str(e))
        _remove_attempts(output)
        return FileReport(name, "kept", texts=rows)

    def _made_of(self, source: Path) -> dict[str, Any]:
        """All that the rows depend on, except for what the stamp says."""
        with _reading(), source.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return {
            "sha256": sha256,
            "fields": asdict(self._settings.fields),
            "graph": f"{self._embedder.graph.key} {self._embedder.graph.variant_id}",
            "overflow": self._embedder.overflow,
            "on_error": self._plan.on_error,
        }

    def _write(
        self, name: str, source: Path, output: Path, made_of: dict[str, Any], state: tuple[int, ...]
    ) -> FileReport:
        attempt = output.parent / ATTEMPTS / f"{output.name}.{os.getpid()}.{uuid.uuid4().hex[:12]}"
        _make_folder(attempt)
        try:
            report = self._embed_rows(name, source, attempt / output.name, made_of)
            if _state(source) != state:
                raise InputError("was changed while it was read. Call again when it stays as it is.")
            place_durably(attempt / output.name, output)
        finally:
            _remove(attempt)
        _remove_attempts(output)
        return report

    def _embed_rows(self, name: str, source: Path, path: Path, made_of: dict[str, Any]) -> FileReport:
        width, dtype = stored_as(self._stamp.dim, self._stamp.vector_precision)
        metadata = {PARQUET_KEY: self._stamp.to_json(), SOURCE_KEY: json.dumps(made_of)}
        fields = self._settings.fields
        with _reading():
            opened = open_source(source)
        if not opened.parquet:
            raise InputError("is not a Parquet file, though its name says so. Write it as Parquet.")
        writer = ParquetWriter(path, width, dtype, fields.id, metadata)
        job = Job(self._embedder, self._plan, writer, lambda line: None, advice="on_error='null' continues.")
        try:
            job.run(read_rows(opened, "parquet", fields), lambda rows: None)
        finally:
            writer.close(True)
        done = job.report
        return FileReport(
            name,
            "written",
            done.texts,
            done.tokens,
            round(done.seconds, 3),
            len(done.errors),
            len(done.cut_lines),
        )

    def _check_finished(self, output: Path, made_of: dict[str, Any]) -> int:
        """Refuse a file under the output's name that is not what this run would write; gives its rows.

        Raises:
            InputError: the message says what it is, and what to do.
        """
        read_stamp(output).join(self._stamp, str(output))
        arrow, parquet = import_pyarrow("Parquet files need")
        with damage_told(output, arrow), output.open("rb") as data:
            footer = parquet.read_metadata(data)
        try:
            found = json.loads((footer.metadata or {})[SOURCE_KEY.encode()])
        except (KeyError, ValueError) as e:
            raise InputError(
                f"{output} is there already and does not say which texts it was made of. Move it away, or "
                "give another folder for the vectors."
            ) from e
        other = [key for key in made_of if found.get(key) != made_of[key]]
        if "sha256" in other:
            raise InputError(
                f"The texts have changed since {output} was made of them. Remove it to embed them again, or "
                "give another folder for the vectors."
            )
        if other:
            raise InputError(
                f"{output} was made with {other[0]} {found.get(other[0])}, and this run has "
                f"{made_of[other[0]]}. Call with the former, or give another folder for the vectors."
            )
        rows: int = footer.num_rows
        return rows


@lru_cache(maxsize=1)
def kept_embedder(pickled: bytes) -> FileEmbedder:
    """One for pickled settings, kept for a process that is handed task after task."""
    return FileEmbedder(pickle.loads(pickled))


@contextmanager
def _reading() -> Iterator[None]:
    """A file of texts that cannot be read is a bad file, not a bad disk."""
    try:
        yield
    except OSError as e:
        raise InputError(f"cannot be read ({e.strerror or e}). Put it back, or mend it.") from e


def _state(source: Path) -> tuple[int, ...]:
    """What tells whether a file has been written to."""
    with _reading():
        found = source.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _make_folder(attempt: Path) -> None:
    """Raises InputError if no disk could hold it."""
    while True:
        try:
            attempt.mkdir(parents=True)
            return
        except FileNotFoundError:
            continue  # another worker has just removed the folder of attempts, which was empty
        except OSError as e:
            if e.errno == errno.EEXIST and _is_free(Path(e.filename)):
                continue  # and another one made it again
            if e.errno not in _NAMES:
                raise
            raise InputError(
                f"cannot get its vectors: {e.strerror} ({e.filename}). Rename it, or move away what lies in "
                "the folder for vectors."
            ) from e


def _is_free(folder: Path) -> bool:
    """Whether no file lies where a folder is to be made."""
    try:
        mode = folder.lstat().st_mode  # once: it may come and go between two looks
    except FileNotFoundError:
        return True
    return stat.S_ISDIR(mode) or (stat.S_ISLNK(mode) and folder.is_dir())


def _remove_attempts(output: Path) -> None:
    """Remove what killed attempts at a finished file have left."""
    with suppress(FileNotFoundError):
        for attempt in (output.parent / ATTEMPTS).iterdir():
            if attempt.name.rpartition(".")[0].rpartition(".")[0] == output.name:
                _remove(attempt)


def _remove(attempt: Path) -> None:
    shutil.rmtree(attempt, ignore_errors=True)
    with suppress(OSError):  # others are at work in the folder of attempts
        attempt.parent.rmdir()
