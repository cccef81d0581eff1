"""Writes files whole or not at all."""

import os
from pathlib import Path


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
