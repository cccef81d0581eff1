"""The settings that a service is started with, as plain values that can be sent to its workers."""

from dataclasses import dataclass, field
from pathlib import Path

from embedding_runtime.encoding.overflow import Overflow
from embedding_runtime.opening.open_bundle import Choice


@dataclass(frozen=True)
class Limits:
    """The limits of one request, and of the queue.

    `body` (bytes), `texts` and `tokens` limit one request; `queue` limits the texts of all unanswered
    requests; `seconds` limits the time from a request's first line to the last byte of its answer.
    """

    body: int = 8 << 20
    texts: int = 2048
    tokens: int = 300_000
    queue: int = 16_384
    seconds: float = 120.0

    @property
    def held(self) -> int:
        """Bytes of bodies that may be in memory at once, of all requests."""
        return 8 * self.body


@dataclass(frozen=True)
class Settings:
    """One service; `token` is what a client must send, None if none is needed."""

    bundle: Path
    choice: Choice = field(default_factory=Choice)
    overflow: Overflow = "error"
    batch_size: int = 32
    limits: Limits = field(default_factory=Limits)
    token: str | None = field(default=None, repr=False)
