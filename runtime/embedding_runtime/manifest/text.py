"""Reads a text file of a bundle."""

import errno
from pathlib import Path


def read_text(path: Path) -> str:
    """The text of a file in UTF-8.

    Raises:
        OSError: it cannot be read, or is a pipe or a device, of which reading never ends.
        UnicodeDecodeError: it is not UTF-8.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a file", str(path))
    return path.read_text(encoding="utf-8")
