"""One line on stderr: how many texts are done, at which rate, and how long the rest will take."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType

from embedding_runtime.encoding.stream import Window

_INTERVAL = 0.5  # seconds between two repaints


def is_shown(show: bool | None) -> bool:
    """The requested value; None means yes if this package logs at INFO or DEBUG, as in the reference."""
    level = logging.getLogger("embedding_runtime").getEffectiveLevel()
    return level in (logging.INFO, logging.DEBUG) if show is None else show


class Progress:
    """A progress line, silent unless enabled; `total` is None if the number of texts is unknown."""

    def __init__(self, total: int | None, enabled: bool) -> None:
        self._total, self._enabled, self._fraction = total, enabled, None if total is None else 0.0
        self._done, self._started, self._painted = 0, time.monotonic(), 0.0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._enabled and self._painted:
            self._paint(time.monotonic())
            sys.stderr.write("\n")
            sys.stderr.flush()

    def advance(self, count: int, fraction: float | None = None) -> None:
        """Count finished texts, and repaint from time to time; `fraction` is the share of work done."""
        self._done += count
        self._fraction = fraction if self._total is None else self._done / max(1, self._total)
        now = time.monotonic()
        if self._enabled and now - self._painted >= _INTERVAL:
            self._painted = now
            self._paint(now)

    def counted(self, windows: Iterable[Window]) -> Iterator[Window]:
        """The same windows; their texts are counted as they pass."""
        for window in windows:
            yield window
            self.advance(len(window.vectors))

    def _paint(self, now: float) -> None:
        elapsed = max(now - self._started, 1e-9)
        line = f"{self._done:,} texts, {self._done / elapsed:,.0f}/s"
        if self._fraction:
            line += f", {self._fraction:.0%}, {_clock(elapsed * (1 - self._fraction) / self._fraction)} left"
        else:
            line += f", {_clock(elapsed)} so far"
        sys.stderr.write(f"\r{line:<70}")
        sys.stderr.flush()


def _clock(seconds: float) -> str:
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
