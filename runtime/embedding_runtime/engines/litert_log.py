"""Keeps what LiteRT's C++ code prints off standard error.

LiteRT 2.3 prints some forty lines when it opens a graph and a few when it closes one. It has no setting to
stop that, and bypasses Python, so file descriptor 2 itself is redirected in the meantime.
"""

import ctypes
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from typing import IO

# Set to anything but nothing, this environment variable leaves the engine's lines where they are.
SHOW = "EMBEDDING_EDGE_ENGINE_LOG"
_STDERR = 2
_ENGINE_LINE = re.compile(rb"(VERBOSE|INFO|WARNING|ERROR|FATAL): |\s*\xe2\x94\x94 |[IWEF]\d{4} [\d:.]+ ")
_lock = threading.RLock()


def is_shown() -> bool:
    """Whether the user asked to see the engine's lines."""
    return bool(os.environ.get(SHOW))


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block the engine's lines are dropped; all other lines reach standard error at its end.

    Limits: lines that other threads write in the meantime come late; a line that looks like the engine's is
    dropped, whoever wrote it; a process that is killed within the block loses its last lines; a child process
    started within it has no standard error.
    """
    with _lock, ExitStack() as stack:
        if not is_shown():
            with suppress(OSError):  # no standard error, or nowhere to keep it meanwhile
                aside = stack.enter_context(_nowhere())
                saved = os.dup(_STDERR)
                stack.callback(_restore, saved, aside)
                os.dup2(aside.fileno(), _STDERR)
        yield


@cache
def quiet_exit() -> None:
    """Close standard error when the process ends: after Python is done, before the engine's last lines.

    Call it after the engine has registered its exit handlers: the C library runs them in reverse order.
    """
    if not is_shown():
        with suppress(AttributeError, OSError, TypeError):
            libc = ctypes.CDLL(None)
            libc.__cxa_atexit(libc.close, ctypes.c_void_p(_STDERR), None)


def _nowhere() -> IO[bytes]:
    """A file without a name, in memory if possible: a device may have no folder to write to."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("stderr"), "w+b")
    return tempfile.TemporaryFile()


def _restore(saved: int, aside: IO[bytes]) -> None:
    os.dup2(saved, _STDERR)
    os.close(saved)
    with suppress(OSError):
        aside.seek(0)
        for line in aside:
            if not _ENGINE_LINE.match(line):
                os.write(_STDERR, line)
