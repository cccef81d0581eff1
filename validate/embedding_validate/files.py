"""Makes folders for results, and writes files whole or not at all."""

import os
import tempfile
from pathlib import Path

from embedding_runtime.errors import InputError


def make_folder(path: Path) -> None:
    """Make the folder of a command's results where there is none, and see that it can be written to.

    Raises:
        InputError: something else has its name.  OSError: it cannot be made, or not be written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{path} cannot be a folder, as a file is in its way. Give another one.") from None
    with tempfile.TemporaryFile(dir=path):
        pass


def replace_text(path: Path, text: str) -> Path:
    """Write text as UTF-8 to a sibling of `path`, then rename it, so that no half-written file is visible.

    Raises:
        OSError: the folder cannot be written to.
    """
    return replace_bytes(path, text.encode("utf-8"))


def replace_bytes(path: Path, data: bytes) -> Path:
    """Write bytes to a sibling of `path`, then rename it, so that no half-written file is visible.

    Raises:
        OSError: the folder cannot be written to.
    """
    sibling = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        sibling.write_bytes(data)
        sibling.replace(path)
    finally:
        sibling.unlink(missing_ok=True)
    return path
