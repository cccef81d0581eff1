"""What the page posts, as runs of `compare.json`: checked, given its percentiles, written at each step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from embedding_runtime.errors import EmbeddingError, InputError
from embedding_validate.compare.document import store
from embedding_validate.compare.document.browser import BrowserCase, BrowserMachine, BrowserRun, with_figures
from embedding_validate.compare.document.case import MEASURED
from embedding_validate.compare.document.document import Document
from embedding_validate.compare.phone import engines
from embedding_validate.compare.phone.plan import Plan
from embedding_validate.compare.report.write import write_reports
from embedding_validate.files import make_folder, replace_text
from embedding_validate.records import RecordError, decode

_MOST_CASES, _LONGEST_TEXT = 100, 500
_BEGUN = "begun"
_ENDED = "the browser closed the page here: memory may have run out"


class InvalidReportError(EmbeddingError):
    """What was posted is no report of the page's."""


@dataclass(frozen=True)
class Report:
    """What the page posts: all of a run so far, which `run` names."""

    run: str
    label: str
    complete: bool
    machine: BrowserMachine
    cases: tuple[BrowserCase, ...]


class Results:
    """The runs of one serving of the page, beside whatever `compare.json` in `folder` has already."""

    def __init__(self, plan: Plan, folder: Path, say: Callable[[str], None]) -> None:
        """Read what is there.

        Raises:
            InputError: the folder holds an interrupted comparison, or a `compare.json` that cannot be read;
                or its name is a file's.  OSError: it cannot be written to.
        """
        self._plan, self._folder, self._say = plan, folder, say
        make_folder(folder)
        path = folder / store.JSON
        self._before = store.load(path) if path.exists() else Document(())
        if any(not run.complete for run in self._before.measured):
            raise InputError(
                f"{path} holds an interrupted comparison: end it with compare-embedding --resume, or take "
                "another --output."
            )
        self._runs: dict[tuple[str, str], BrowserRun] = {}

    @property
    def runs(self) -> tuple[BrowserRun, ...]:
        """What came, in the order it began."""
        return tuple(self._runs.values())

    def take(self, posted: Any, guest: str) -> None:
        """Write a report of a browser, in place of what its run said before.

        Raises:
            InvalidReportError: it is no report.  OSError: it cannot be written.
        """
        report = _checked(posted, self._plan)
        key = (guest, report.run)
        before = self._runs.get(key)
        self._runs[key] = self._run(report, before.started if before else _now())
        self._write()
        if report.complete:
            _tell(self._runs[key], self._say)

    def end_what_began(self, guest: str) -> list[str]:
        """The names of cases in which a browser closed the page, which its runs say from now on.

        To be asked when it opens the page again: what it had begun then, it does not end any more.
        """
        own = {key: run for key, run in self._runs.items() if key[0] == guest and not run.complete}
        for key, run in own.items():
            cases = tuple(
                replace(c, status="ended", reason=_ENDED) if c.status == _BEGUN else c for c in run.cases
            )
            self._runs[key] = replace(run, cases=cases)
        if own:
            self._write()
        return [c.name for key in own for c in self._runs[key].cases if c.status == "ended"]

    def _run(self, report: Report, started: str) -> BrowserRun:
        manifest = self._plan.manifest
        return BrowserRun(
            label=_plain(report.label),
            origin="browser",
            started=started,
            complete=report.complete,
            machine=replace(report.machine, agent=_plain(report.machine.agent)),
            bundle=self._plan.name,
            space_id=manifest.space_id,
            random_weights=manifest.source.random_weights,
            versions=engines.versions(),
            cases=tuple(with_figures(_cut(case)) for case in report.cases),
        )

    def _write(self) -> None:
        document = store.merge([self._before, Document(self.runs)])
        replace_text(self._folder / store.JSON, store.dumps(document))
        write_reports(self._folder, document)


def _checked(posted: Any, plan: Plan) -> Report:
    try:
        report: Report = decode(Report, posted, "report")
    except RecordError as e:
        raise InvalidReportError(f"This is no report of the page: {e}.") from e
    if len(report.cases) > _MOST_CASES or not _plain(report.label):
        raise InvalidReportError("This is no report of the page: too many cases, or no name of the device.")
    tolerances = {graph.key: plan.tolerance(graph) for graph in plan.graphs}
    for case in report.cases:
        if case.tolerance != tolerances.get(case.system):
            raise InvalidReportError(
                f"This is no report of the page: {case.system} within {case.tolerance:g}."
            )
        if case.status == MEASURED and not _within(case):
            raise InvalidReportError(f"This is no report: {case.name} was timed, and its vectors are wrong.")
    return report


def _within(case: BrowserCase) -> bool:
    error, cosine = case.max_abs_error, case.cosine
    return error is not None and cosine is not None and error <= case.tolerance


def _cut(case: BrowserCase) -> BrowserCase:
    times = tuple(replace(t, reason=t.reason and _plain(t.reason)) for t in case.times)
    return replace(case, reason=case.reason and _plain(case.reason), times=times)


def _plain(text: str) -> str:
    """One line that can be printed, of bounded length."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_LONGEST_TEXT]


def _tell(run: BrowserRun, say: Callable[[str], None]) -> None:
    for case in run.cases:
        times = ", ".join(f"{t.tokens}: {t.median_ms:.3g} ms" for t in case.times if t.median_ms is not None)
        say(f"{run.label} | {case.name} | {times or f'{case.status} ({case.reason})'}")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def status(runs: Sequence[BrowserRun]) -> int:
    """0 where every case that could be tried gave the bundle's vectors, else 1."""
    return int(any(run.failures or not run.complete for run in runs))
