"""Puts files in place so that they survive a power cut whole: either the new file or the previous one."""

import os
from pathlib import Path


def replace_durably(path: Path, text: str, temporary: Path) -> None:
    """Write `text` to `temporary`, flush it to the disk, and rename it to `path`.

    Raises:
        OSError: it cannot be written; the previous file stays, and `temporary` is removed.
    """
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
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
    with temporary.open("r+b") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
