"""What commands print for people and programs, whatever standard output is. Knows nothing of its content."""

import codecs
import json
import os
import sys

_ESCAPED = "embedding_runtime.escaped"


def _escape(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error(_ESCAPED, _escape)


def show(text: str) -> None:
    """Write text and have it out; what the encoding cannot hold is escaped as in JSON.

    Does nothing where standard output is closed.

    Raises:
        OSError: it cannot be written; BrokenPipeError where its reader went away.
    """
    if sys.stdout is not None:
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, _ESCAPED).decode(encoding))
        sys.stdout.flush()


def abandon() -> None:
    """Let go of an output without a reader: Python would complain of it again when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
