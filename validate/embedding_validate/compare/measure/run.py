"""Measures the cases of a plan, each in a fresh process, in turn with the reference case (A B A B).

Two processes are alive at a time and only one of them runs, so that a small board suffices. A case that fails
becomes a row; each case is yielded as soon as it is measured.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedding_validate.compare.document.case import Case, Rounds, disturbance, noise, timed
from embedding_validate.compare.document.document import Accuracy, Opening
from embedding_validate.compare.document.shapes import Shape
from embedding_validate.compare.measure.machine_state import drop_pages, glance, throttling
from embedding_validate.compare.measure.process import NO_ANSWER, Block, Ended, Process, Start, System
from embedding_validate.measures import metrics

# A disturbed case is measured this often at most, and the least disturbed attempt counts; one that took more
# than `_SECONDS_TO_REPEAT` is only marked.
ATTEMPTS = 2
_SECONDS_TO_REPEAT = 10.0
LEAST_ROUNDS = 3
MOST_RUNS = 50
# Longer runs are repeated only twice; the first has already warmed up.
_LONG_SECONDS = 1.0
_LONG_ROUNDS = 2
# What a system's first opening may take of the limit where it converts a checkpoint.
_CONVERTING = 10

Vectors = NDArray[np.float32]
TokenIds = tuple[tuple[int, ...], ...]
"""Of each text."""
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Subject:
    """A system, the files it opens, and the environment, with the cache, that it is given.

    `first` says what its first opening does: "converts" (once, elsewhere than on a device, and not timed),
    "prepares" the device for later ones, or is like any other ("plain").
    """

    system: System
    files: tuple[Path, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    first: Literal["converts", "prepares", "plain"] = "plain"

    @property
    def name(self) -> str:
        """Its name in reports."""
        return self.system.name


@dataclass(frozen=True)
class Plan:
    """What to measure. `reference` names what ratios are taken to, `bases` for each system whose vectors are
    its accuracy's base, which is measured first (a system without a base is not there). `seconds` is what a
    case's own samples take together, roughly; `limit` the seconds after which a system that has not answered
    is ended. `texts` are the token ids of real texts for each base, on which accuracy is measured; times are
    taken with random ids."""

    subjects: tuple[Subject, ...]
    shapes: tuple[Shape, ...]
    threads: tuple[int, ...]
    reference: str
    bases: Mapping[str, str]
    rounds: int
    seconds: float
    limit: float
    vocab_size: int
    texts: Mapping[str, TokenIds] = field(default_factory=dict)

    def subject(self, name: str) -> Subject:
        """The subject of that name."""
        return next(s for s in self.subjects if s.name == name)

    @property
    def bases_first(self) -> list[Subject]:
        """The subjects, those that are a base before the others."""
        bases = set(self.bases.values())
        return sorted(self.subjects, key=lambda s: s.name not in bases)


def openings(plan: Plan, base: dict[str, Vectors], done: set[str], progress: Progress) -> Iterator[Opening]:
    """Open every system on the plan's first number of threads, those in `done` left out; the accuracy's bases
    first, whose vectors of the texts `base` holds or gets by name."""
    for subject in plan.bases_first:
        if subject.name not in done:
            progress(f"opening {subject.name}")
            yield _opening(plan, subject, plan.threads[0], base)


def _opening(plan: Plan, subject: Subject, threads: int, base: dict[str, Vectors]) -> Opening:
    first_s = None
    try:
        if subject.first != "plain":
            patience = _CONVERTING if subject.first == "converts" else 1
            with _process(plan, subject, threads, patience) as process:
                first_s = process.opened["load_s"] if subject.first == "prepares" else None
        dropped = drop_pages((*subject.files, *_prepared(subject)))
        with _process(plan, subject, threads) as process:
            opened, command = process.opened, tuple(process.command)
            vectors = _vectors(process, plan, subject)
    except Ended as e:
        return Opening(subject.name, threads, e.status, e.reason)
    return Opening(
        subject.name,
        threads,
        "measured",
        command=command,
        first_s=first_s,
        cold_s=opened["load_s"],
        dropped=dropped,
        memory_before=opened["memory_before"],
        memory_loaded=opened["memory"],
        versions=opened["versions"],
        accuracy=_accuracy(plan, subject, vectors, base),
    )


def _vectors(process: Process, plan: Plan, subject: Subject) -> list[Vectors]:
    """The vectors of the texts; none if nothing can be compared with them, or if they end the process, which
    its cases will report."""
    texts = plan.texts.get(plan.bases.get(subject.name, ""), ())
    try:
        return process.vectors(texts) if texts else []
    except Ended:
        return []


def _accuracy(
    plan: Plan, subject: Subject, vectors: list[Vectors], base: dict[str, Vectors]
) -> Accuracy | None:
    """Smallest and mean cosine to the base over the texts; 0 for vectors of another size, or with NaN."""
    own = plan.bases.get(subject.name)
    if own == subject.name and vectors:
        base[own] = np.stack(vectors)
    if not vectors or own not in base:
        return None
    raw = [
        metrics.cosine(a, b) if a.shape == b.shape else 0.0 for a, b in zip(vectors, base[own], strict=True)
    ]
    cosines = [c if np.isfinite(c) else 0.0 for c in raw]
    return Accuracy(len(cosines), round(min(cosines), 6), round(float(np.mean(cosines)), 6))


def _prepared(subject: Subject) -> Iterator[Path]:
    """The files in a system's cache folder."""
    if folder := subject.environment.get("XDG_CACHE_HOME"):
        yield from (path for path in Path(folder).rglob("*") if path.is_file())


def cases(plan: Plan, done: set[str], silent: set[str], progress: Progress) -> Iterator[Case]:
    """Measure every case, except those whose key is in `done`.

    Systems in `silent` are skipped; one that does not answer is not run again on that number of threads.
    """
    for threads in plan.threads:
        hung = set(silent)
        with closing(_Reference(plan, threads)) as reference:
            for shape in plan.shapes:
                for subject in plan.bases_first:
                    case = Case(subject.name, threads, shape.batch, shape.tokens, "", started=_now())
                    if case.key in done:
                        continue
                    if subject.name in hung:
                        yield replace(case, status=NO_ANSWER, reason="not asked again")
                        continue
                    progress(case.key)
                    measured = _measured(plan, subject, case, reference)
                    if measured.status == NO_ANSWER:
                        hung.add(subject.name)
                    yield measured


def alone(plan: Plan, subjects: Sequence[Subject], done: set[str], progress: Progress) -> Iterator[Case]:
    """Measure other subjects at the plan's shapes, on one thread and without a reference."""
    for subject in subjects:
        for shape in plan.shapes:
            case = Case(subject.name, 1, shape.batch, shape.tokens, "", started=_now())
            if case.key not in done:
                progress(case.key)
                yield _measured(plan, subject, case, None)


class _Reference:
    """The reference case's process for one number of threads; it is restarted if it has ended."""

    def __init__(self, plan: Plan, threads: int) -> None:
        self._plan, self._threads = plan, threads
        self._process: Process | None = None
        self._silent = False

    def process(self) -> Process | None:
        """A stopped process; None if it does not start, or did not answer earlier."""
        if self._process is None and not self._silent:
            try:
                self._process = _process(self._plan, self._plan.subject(self._plan.reference), self._threads)
            except Ended as e:
                self.ended(e)
                return None
            self._process.stop()
        return self._process

    def ended(self, end: Ended) -> None:
        """Record how the process ended."""
        self._silent = end.status == NO_ANSWER
        self.close()

    def close(self) -> None:
        """End the process."""
        if self._process:
            self._process.close()
        self._process = None


def _measured(plan: Plan, subject: Subject, case: Case, reference: _Reference | None) -> Case:
    """Measure a case in a fresh process; if the process ends, the case says how."""
    shape = Shape(case.batch, case.tokens)
    try:
        with _process(plan, subject, case.threads) as process:
            first = process.run(shape, 1, watch=True)
            process.stop()
            opened = replace(
                case,
                command=tuple(process.command),
                load_s=round(process.opened["load_s"], 5),
                first_ms=round(1e3 * first.seconds[0], 4),
                memory=_memory(process.opened, first),
                machine_state=asdict(glance()),
            )
            return _beside(plan, process, reference, opened)
    except Ended as e:
        return replace(case, status=e.status, reason=e.reason)


def _beside(plan: Plan, own: Process, reference: _Reference | None, case: Case) -> Case:
    """Measure in turn with the reference; without a ratio if the reference does not run this shape."""
    if reference is not None and (other := reference.process()) is not None:
        try:
            return _attempts(plan, own, other, case)
        except Ended as e:
            if e.system != plan.reference or own.ended:
                raise
            reference.ended(e)
    return replace(_attempts(plan, own, own, case), ratio=None, ratio_spread=None)


def _attempts(plan: Plan, own: Process, reference: Process, case: Case) -> Case:
    """Measure rounds, again if something disturbed them, and keep the least disturbed attempt."""
    tried: list[Rounds] = []
    while not tried or again(tried, case):
        tried.append(_rounds(plan, own, reference, case))
    best = min(tried, key=lambda r: disturbance(r, case.threads))
    return replace(timed(case, best), attempts=len(tried))


def again(tried: Sequence[Rounds], case: Case) -> bool:
    """Whether the last attempt was disturbed, and another is worth its time."""
    last = tried[-1]
    return len(tried) < ATTEMPTS and last.seconds < _SECONDS_TO_REPEAT and bool(noise(last, case.threads))


def _rounds(plan: Plan, own: Process, reference: Process, case: Case) -> Rounds:
    """Blocks of both in turn, the reference first, after a run of each that is measured by; one's own samples
    stand for both where `reference` is the case's own process."""
    shape, before = Shape(case.batch, case.tokens), glance()
    each = own.latest[shape]
    if each <= _LONG_SECONDS:
        each = _awake(own, shape, 1).seconds[0]
    warm = reference.latest.get(shape) or _awake(reference, shape, 1).seconds[0]
    least = LEAST_ROUNDS if each <= _LONG_SECONDS else _LONG_ROUNDS
    rounds = max(least, min(plan.rounds, int(plan.seconds / each)))
    runs = [max(1, min(MOST_RUNS, round(plan.seconds / rounds / s))) for s in (warm, each)]
    theirs: list[Block] = []
    ours: list[Block] = []
    for _ in range(rounds):
        if reference is not own:
            theirs.append(_awake(reference, shape, runs[0]))
        ours.append(_awake(own, shape, runs[1]))
    theirs = theirs or ours
    return Rounds(
        own=tuple(tuple(b.seconds) for b in ours),
        reference=tuple(tuple(b.seconds) for b in theirs),
        waited_s=sum(b.waited_s for b in (*theirs, *ours)),
        foreign_s=max(0.0, sum(b.foreign_s for b in (*theirs, *ours))),
        throttled=throttling(before, glance()),
    )


def _awake(process: Process, shape: Shape, runs: int) -> Block:
    with process.awake():
        return process.run(shape, runs)


def _memory(opened: Mapping[str, Any], first: Block) -> dict[str, int]:
    """kB: before loading, after it, the peaks of the first run, and the process's own peak."""
    before, loaded, run = opened["memory_before"], opened["memory"], first.memory
    values = {
        "anonymous_before": before.get("RssAnon"),
        "anonymous_loaded": loaded.get("RssAnon"),
        "anonymous_peak": max(run.get("PeakAnon", 0), run.get("RssAnon", 0)) or None,
        "file_peak": max(run.get("PeakFile", 0), run.get("RssFile", 0)) or None,
        "peak": run.get("VmHWM"),
    }
    return {name: kilobytes for name, kilobytes in values.items() if kilobytes is not None}


def _process(plan: Plan, subject: Subject, threads: int, patience: int = 1) -> Process:
    return Process(
        subject.system, Start(threads, plan.vocab_size, subject.environment, patience * plan.limit)
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
