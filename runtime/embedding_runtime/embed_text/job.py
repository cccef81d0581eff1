"""The work of `embed-text`: rows in, vectors out; a policy decides on bad rows."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.embed_text.files.rows import Row
from embedding_runtime.embed_text.files.writers import Writer, Written
from embedding_runtime.embed_text.resume import Digest, Mark, Notes, pass_over
from embedding_runtime.embedder import Embedder
from embedding_runtime.encoding.options import Options
from embedding_runtime.encoding.overflow import Request
from embedding_runtime.encoding.prompts import with_title
from embedding_runtime.encoding.stream import Window
from embedding_runtime.errors import InputError
from embedding_runtime.quantization import quantize_embeddings

OnError = Literal["stop", "skip", "null"]


@dataclass(frozen=True)
class Plan:
    """How to encode rows, and what to do with bad ones; `ranges` (2, dim) are for int8 and uint8."""

    prompt: str
    titles: bool
    options: Options
    on_error: OnError
    ranges: NDArray[np.float32] | None = None


@dataclass
class Report:
    """What happened to the rows; lines are numbered as in the input, from 1."""

    texts: int = 0
    written: int = 0
    tokens: int = 0
    cut_lines: list[int] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)
    least: NDArray[np.float32] | None = None
    most: NDArray[np.float32] | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds since the start, including those of the run that is resumed."""
        return time.monotonic() - self.started

    @property
    def ranges(self) -> NDArray[np.float32] | None:
        """Least and greatest value of each dimension so far, float32 (2, dim); None before the first."""
        return None if self.least is None or self.most is None else np.stack((self.least, self.most))

    def noted(self) -> dict[str, Any]:
        """The report in a form that JSON can hold."""
        counts = {
            k: getattr(self, k) for k in ("texts", "written", "tokens", "cut_lines", "errors", "seconds")
        }
        return {**counts, "ranges": None if self.ranges is None else self.ranges.tolist()}

    @classmethod
    def of(cls, noted: dict[str, Any]) -> "Report":
        """The recorded report; its clock continues."""
        values = dict(noted)
        started = time.monotonic() - values.pop("seconds")
        ranges = values.pop("ranges")
        least, most = (None, None) if ranges is None else np.array(ranges, dtype=np.float32)
        return cls(**values, least=least, most=most, started=started)


@dataclass
class Job:
    """One run of rows through an Embedder into a writer; `tell` gets a line for every bad row.

    If there are `notes`, finished blocks are recorded in them; with a `mark`, the run continues there.
    `advice` ends the message of a bad row that stops the run.
    """

    embedder: Embedder
    plan: Plan
    writer: Writer
    tell: Callable[[str], None]
    notes: Notes | None = None
    mark: Mark | None = None
    advice: str = "--on-error skip or null continues."
    report: Report = field(init=False)
    _digest: Digest = field(default_factory=Digest)
    _waiting: deque[Row] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.report = Report.of(self.mark.report) if self.mark else Report()

    def run(self, rows: Iterable[Row], done: Callable[[int], None]) -> None:
        """Encode and write all rows; `done` gets the number of rows after each block.

        Raises:
            InputError: a bad row, and the policy is to stop (the rows before it are written); or the rows do
                not begin with those before `mark`.
            OSError: the writer failed. The rows before are written.
        """
        rows = iter(rows)
        if self.mark:
            pass_over(rows, self.mark, self._digest)
        for window in self.embedder.windows(self._requests(rows), self.plan.options, strict=False):
            self._write(self._rows_of(window))
            if not window.last:
                self._note()
            done(len(window.vectors))
        self._write(self._bad_rows())

    def _note(self) -> None:
        """Record the block just written if possible; the run continues if not."""
        if self.notes is None or not self.notes.due():
            return
        try:
            size = self.writer.sync()
            if size is not None:
                self.notes.write(Mark(self.report.texts, self._digest.hex(), size, self.report.noted()))
        except OSError as e:
            self.notes = None
            self.tell(f"warning: --resume cannot continue beyond row {self.report.texts} ({e.strerror or e})")

    def _requests(self, rows: Iterable[Row]) -> Iterator[Request]:
        """Requests of the readable rows; every row is queued until its turn to be written comes."""
        for row in rows:
            self._waiting.append(row)
            if row.error is None:
                yield Request(self._prompt(row), row.text)
            elif self.plan.on_error == "stop":
                return

    def _prompt(self, row: Row) -> str:
        return with_title(self.plan.prompt, row.title) if self.plan.titles else self.plan.prompt

    def _rows_of(self, window: Window) -> Iterator[Written]:
        vectors = self._stored(window)
        self.report.tokens += int(window.tokens.sum())
        for place in range(len(vectors)):
            yield from self._bad_rows()
            row = self._pop()
            if error := window.errors.get(window.start + place):
                yield from self._bad(row, str(error))
                continue
            if window.long[place] and self.plan.options.overflow != "chunk":
                self.report.cut_lines.append(row.line)
            yield self._next(row, vectors[place])

    def _bad_rows(self) -> Iterator[Written]:
        while self._waiting and self._waiting[0].error is not None:
            row = self._pop()
            yield from self._bad(row, row.error or "")

    def _pop(self) -> Row:
        row = self._waiting.popleft()
        self._digest.add(row)
        return row

    def _bad(self, row: Row, error: str) -> list[Written]:
        if self.plan.on_error == "stop":
            raise InputError(f"line {row.line} {error} ({self.advice})")
        self.tell(f"line {row.line} {error}")
        self.report.errors.append({"line": row.line, "error": error})
        if self.plan.on_error == "skip":
            self.report.texts += 1
            return []
        return [self._next(row, None, error)]

    def _next(self, row: Row, vector: NDArray[Any] | None, error: str | None = None) -> Written:
        self.report.texts += 1
        return Written(self.report.texts - 1, row.id, vector, error)

    def _stored(self, window: Window) -> NDArray[Any]:
        self._note_ranges(window)
        precision = self.plan.options.precision or "float32"
        if precision == "float32":
            return window.vectors
        return quantize_embeddings(np.nan_to_num(window.vectors), precision, self.plan.ranges)

    def _note_ranges(self, window: Window) -> None:
        good = window.vectors[~np.isnan(window.vectors[:, 0])]
        if len(good):
            least, most, report = good.min(axis=0), good.max(axis=0), self.report
            report.least = least if report.least is None else np.minimum(least, report.least)
            report.most = most if report.most is None else np.maximum(most, report.most)

    def _write(self, rows: Iterable[Written]) -> None:
        """Write `rows` as far as they come, even if one of them raises."""
        block: list[Written] = []
        try:
            block.extend(rows)
        finally:
            if block:
                self.writer.write(block)
                self.report.written += len(block)
