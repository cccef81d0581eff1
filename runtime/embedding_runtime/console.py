"""How commands print and exit, whatever standard output is connected to."""

import codecs
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from embedding_runtime.errors import EmbeddingError

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130
"""Exit statuses: all is well; a check, an engine or a disk failed; what was given cannot be used; Ctrl-C."""

_ESCAPED = "embedding_runtime.escaped"


def _escape(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error(_ESCAPED, _escape)


def show(text: str) -> None:
    """Write text and flush; characters that the encoding lacks are escaped as in JSON.

    Does nothing if standard output is closed.

    Raises:
        OSError: it cannot be written; BrokenPipeError if its reader has gone.
    """
    if sys.stdout is not None:
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, _ESCAPED).decode(encoding))
        sys.stdout.flush()


@contextmanager
def warnings_as_lines(name: str) -> Iterator[None]:
    """Warnings as plain lines of a command, without the source code they come from."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: _say(f"{name}: warning: {message}")
        yield


def run_command(
    name: str,
    run: Callable[[], int],
    *,
    on_interrupt: Callable[[], str] = lambda: "interrupted",
    on_disk_error: Callable[[], str] = lambda: "",
) -> int:
    """Run a command's body and return its exit status; a line on standard error says why it ended early.

    A termination signal ends it as Ctrl-C does. `on_interrupt` says what an interruption leaves behind;
    `on_disk_error` says what a failed read or write leaves behind.
    """
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return run()
    except KeyboardInterrupt:
        status, line = INTERRUPTED, on_interrupt()
    except BrokenPipeError:
        abandon()
        status, line = FAILED, "error: the reader of the output went away"
    except EmbeddingError as e:
        status, line = e.exit_status, f"error: {e}"
    except OSError as e:
        where = f" ({e.filename})" if e.filename else ""
        left = on_disk_error()
        status, line = FAILED, f"error: {e.strerror or e}{where}{f'; {left}' if left else ''}"
    finally:
        signal.signal(signal.SIGTERM, before)
    _say(f"{name}: {line}")
    return status


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def abandon() -> None:
    """Drop an output that has no reader; otherwise Python would report it again when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
