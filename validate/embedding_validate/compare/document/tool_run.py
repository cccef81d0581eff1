"""What phones' own tools reported, and what somebody published, as frozen dataclasses.

`document.phone_logs` reads them; nothing here was measured by `compare-embedding`.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ToolFigures:
    """What a phone's tool measures: milliseconds, seconds, bytes; None for what it does not give.
    `memory_bytes` is the process's at its peak."""

    mean_ms: float
    median_ms: float | None
    p5_ms: float | None
    p95_ms: float | None
    first_ms: float | None
    load_s: float | None
    runs: int
    memory_bytes: int | None


@dataclass(frozen=True)
class ToolCase(ToolFigures):
    """What a phone's tool reports of one graph."""

    tokens: int
    threads: int
    system: str
    batch: int
    status: Literal["measured"]
    reason: str | None

    @property
    def quoted(self) -> tuple[float, str]:
        """Milliseconds, and whether they are a median or a mean."""
        return (self.mean_ms, "mean") if self.median_ms is None else (self.median_ms, "median")


@dataclass(frozen=True)
class PublishedCase:
    """A figure that somebody published: milliseconds, and memory where it is said."""

    system: str
    threads: int | None
    tokens: int
    batch: int
    status: Literal["published"]
    reason: str | None
    mean_ms: float
    memory_bytes: int | None
    median_ms: None = None
    p5_ms: None = None
    p95_ms: None = None
    first_ms: None = None
    load_s: None = None
    runs: int = 0

    @property
    def quoted(self) -> tuple[float, str]:
        """Milliseconds, and that they are published."""
        return self.mean_ms, self.status


@dataclass(frozen=True)
class ToolRun:
    """A log of a phone's tool (`origin` is its name), or published figures; `note` says where from."""

    label: str
    origin: str
    started: str
    complete: bool
    note: str
    source: str
    cases: tuple[ToolCase | PublishedCase, ...]
