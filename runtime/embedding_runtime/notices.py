"""Warnings that are given only once."""

import sys
import threading
import warnings

_PACKAGE = __name__.partition(".")[0]


class Notices:
    """Gives each kind of warning once, from whichever thread comes first."""

    def __init__(self) -> None:
        self._given: set[str] = set()
        self._lock = threading.Lock()

    def once(self, kind: str, message: str, category: type[Warning]) -> None:
        """Warn, at the line of the caller outside this package, unless this kind was given before."""
        with self._lock:
            if kind in self._given:
                return
            self._given.add(kind)
        warn(message, category)


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the first line of the stack, from the caller up, that is not in this package."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == _PACKAGE:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
