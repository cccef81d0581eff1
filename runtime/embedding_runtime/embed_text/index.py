"""The file that `embed-text --into` adds to: what it holds, and whether the new vectors belong in it."""

from pathlib import Path

from embedding_runtime.embed_text.files.existing import Existing, examine
from embedding_runtime.embed_text.resume import noted_settings, notes_path
from embedding_runtime.errors import InputError
from embedding_runtime.stamps.files import read_stamp, stored_as
from embedding_runtime.stamps.stamp import Stamp


def join_file(path: Path, added: Stamp, id_field: str | None, resume: bool) -> tuple[Stamp, Existing | None]:
    """The stamp that the file will have, and what it held before this run (or before the run that this one
    resumes).

    The latter is None if there was no file.

    Raises:
        InputError: the vectors to add do not belong in the file, nothing says what it holds, or an
            interrupted run has left rows in it.
    """
    begun = notes_path(path).exists()
    if begun and not resume:
        raise InputError(
            f"{path} may hold rows of an interrupted run. The same command with --resume continues it; to "
            f"keep the rows as they are and add others, remove {notes_path(path)}."
        )
    if not path.exists():
        return added, None
    stamp = read_stamp(path).join(added, str(path))
    if begun:
        held = noted_settings(path).get("into")
        return stamp, None if held is None else Existing(**held)
    return stamp, examine(path, *stored_as(added.dim, added.vector_precision), id_field)
