"""Puts files in place so that they survive a power cut whole: either the new file or the previous one."""

import errno
import os
from pathlib import Path


def replace_durably(path: Path, data: str | bytes, temporary: Path) -> None:
    """Write text in UTF-8, or bytes, to `temporary`, flush it to the disk, and rename it to `path`.

    Raises:
        OSError: it cannot be written; the previous file stays, and `temporary` is removed.
    """
    try:
        with temporary.open("wb") as file:
            file.write(data.encode("utf-8") if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def move_durably(temporary: Path, path: Path) -> None:
    """Flush a finished file to the disk, and rename it to `path` on the same disk.

    Raises:
        OSError: it cannot be flushed or renamed; `path` is as it was.
    """
    _flush(temporary)
    temporary.replace(path)


def place_durably(temporary: Path, path: Path) -> None:
    """Flush a finished file to the disk, and give it the name `path` on the same disk if that is free.

    Raises:
        FileExistsError: another file has the name, and keeps it.
        OSError: the file cannot be flushed or named.
    """
    _flush(temporary)
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a disk without hard links
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        temporary.replace(path)


def _flush(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())
