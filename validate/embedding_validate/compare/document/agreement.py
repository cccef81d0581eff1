"""Checks whether two runs on one machine agree: every ratio must be within 15 %, or the case is marked."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

from embedding_validate.compare.document.case import Case
from embedding_validate.compare.document.document import Document, Run
from embedding_validate.compare.document.drift import MOST_APART

_SAID = "another run on this machine gave"
Pair = tuple[Case, float, Case, float]
"""The same case in two runs, each with its ratio."""


def agreements(document: Document) -> list[str]:
    """A sentence for every two runs of one plan on one machine."""
    return [agreement(a, b) for a, b in _comparable_runs(document.measured)]


def marked(document: Document) -> Document:
    """The document, with a note in the `noise` of cases whose ratio another run does not confirm; it may have
    been marked before."""
    notes: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for a, b in _comparable_runs(document.measured):
        for x, of_x, y, of_y in _missed(a, b):
            notes[a.started, a.label, x.key].append(f"{_SAID} {of_y:.2f} for its {of_x:.2f}")
            notes[b.started, b.label, y.key].append(f"{_SAID} {of_x:.2f} for its {of_y:.2f}")

    def noted(run: Run) -> Run:
        cases = (case.noted(notes[run.started, run.label, case.key], _SAID) for case in run.cases)
        return replace(run, cases=tuple(cases))

    return Document(tuple(noted(run) if isinstance(run, Run) else run for run in document.runs))


def agreement(a: Run, b: Run) -> str:
    """How far the ratios of two runs lie apart, and which cases are marked for it."""
    count = len(_pairs(a, b))
    apart = [_apart(pair) for pair in _undisturbed(a, b)]
    if not apart:
        return f"{a.started} and {b.started}: none of {count} ratios was undisturbed in both."
    text = (
        f"{a.started} and {b.started}: {len(apart)} of {count} ratios undisturbed in both, which "
        f"differ by {max(apart):.0%} at most"
    )
    missed = sorted(x.key for x, *_ in _missed(a, b))
    return text + (f"; not within {MOST_APART:.0%}, and marked: {', '.join(missed)}." if missed else ".")


def _missed(a: Run, b: Run) -> list[Pair]:
    """The undisturbed ratios on which the two runs do not agree."""
    return [pair for pair in _undisturbed(a, b) if _apart(pair) > MOST_APART]


def _undisturbed(a: Run, b: Run) -> list[Pair]:
    """The cases whose ratios nothing disturbed in either run."""
    return [(x, of_x, y, of_y) for x, of_x, y, of_y in _pairs(a, b) if _quiet(x) and _quiet(y)]


def _apart(pair: Pair) -> float:
    _, of_x, _, of_y = pair
    return abs(of_x / of_y - 1)


def _quiet(case: Case) -> bool:
    return all(reason.startswith(_SAID) for reason in case.noise)


def _pairs(a: Run, b: Run) -> list[Pair]:
    """The cases with a ratio in both."""
    of_b = {case.key: (case, case.ratio) for case in b.cases if case.ratio}
    return [(c, c.ratio, *of_b[c.key]) for c in a.cases if c.ratio and c.key in of_b]


def _comparable_runs(runs: Sequence[Run]) -> Iterator[tuple[Run, Run]]:
    return ((a, b) for a, b in combinations(runs, 2) if _comparable(a, b))


def _comparable(a: Run, b: Run) -> bool:
    same_machine = a.label == b.label and a.machine.cpus == b.machine.cpus
    return same_machine and a.plan.reference == b.plan.reference and bool(_pairs(a, b))
