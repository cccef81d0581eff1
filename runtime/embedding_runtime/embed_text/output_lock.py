"""Keeps two runs of `embed-text` from writing one file at once, which would mix their rows."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from embedding_runtime.errors import InputError


@contextmanager
def locked(output: Path | None) -> Iterator[None]:
    """Hold an output file, and all that lies beside it, for this run alone; None is standard output.

    The lock is the system's and ends with the process, however that ends. The empty file that carries it is
    removed; one that a killed run has left locks nothing. Windows, and disks without locks, hold nothing.

    Raises:
        InputError: another run holds it.
        OSError: its folder cannot be written.
    """
    try:
        fcntl = import_module("fcntl")
    except ImportError:
        fcntl = None
    if output is None or fcntl is None:
        yield
        return
    real = output.resolve()
    path = real.with_name(f".{real.name}.lock")
    descriptor = _acquire(fcntl, path, output)
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            path.unlink()
        os.close(descriptor)


def _acquire(fcntl: Any, path: Path, output: Path) -> int:
    """Open and lock the file; again where another run, as it ended, has removed it in between."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            os.close(descriptor)
            raise InputError(
                f"{output} is being written by another run of embed-text, and their rows would be mixed. "
                "Wait until it ends, or give another file."
            ) from e
        except OSError:
            return descriptor
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)
