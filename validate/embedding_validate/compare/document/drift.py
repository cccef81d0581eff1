"""Marks cases whose reference was unusually slow or fast, because the machine was different for a while.

Each case is timed in turn with the reference case, which is the same for all cases of a shape. A host that
gives less for half a minute slows both, but not equally (a small model waits for memory, a large one for
arithmetic), and nothing within the case shows it.
"""

from collections import defaultdict
from collections.abc import Sequence
from statistics import median

from embedding_validate.compare.document.case import Case

# As far as two runs of a comparison may lie apart.
MOST_APART = 0.15
_SAID = "its reference took"


def marked(cases: Sequence[Case]) -> tuple[Case, ...]:
    """The cases, with a note in the `noise` of each case concerned; they may have been marked before."""
    groups: dict[tuple[int, int, int], list[float]] = defaultdict(list)
    for case in cases:
        if (seconds := _reference_seconds(case)) is not None:
            groups[case.threads, case.batch, case.tokens].append(seconds)
    typical = {shape: median(times) for shape, times in groups.items()}
    return tuple(
        case.noted(_reasons(case, typical.get((case.threads, case.batch, case.tokens))), _SAID)
        for case in cases
    )


def _reasons(case: Case, typical: float | None) -> list[str]:
    seconds = _reference_seconds(case)
    if seconds is None or typical is None or abs(seconds / typical - 1) <= MOST_APART:
        return []
    return [f"{_SAID} {seconds / typical - 1:+.0%} against its other turns"]


def _reference_seconds(case: Case) -> float | None:
    times = [t for turn in case.samples.get("reference", ()) for t in turn]
    return median(times) if times else None
