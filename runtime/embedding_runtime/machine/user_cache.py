"""The folder in which the runtime keeps what it can make again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/embedding-edge`, or `~/.cache/embedding-edge`; it need not exist.

    A user without a home, such as a service's, gets a path that cannot exist, so that nothing is kept.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(base) if Path(base).is_absolute() else Path("~/.cache").expanduser()) / "embedding-edge"
    except RuntimeError:
        return Path(os.devnull) / "embedding-edge"
