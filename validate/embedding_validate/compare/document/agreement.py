"""Whether two runs on one machine agree: every ratio within 15 %, or the case is marked."""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from embedding_validate.compare.document.case import MEASURED
from embedding_validate.compare.document.drift import MOST_APART
from embedding_validate.compare.document.store import key

Json = dict[str, Any]
_SAID = "another run on this machine gave"


def agreements(document: Json) -> list[str]:
    """A sentence for every two runs of one plan on one machine."""
    return [agreement(a, b) for a, b in _comparable_runs(document)]


def mark(document: Json) -> None:
    """Note it in `noise` of cases whose ratio another run does not confirm; may be called again."""
    for case in (c for run in _measured(document) for c in run["cases"]):
        case["noise"] = [reason for reason in case["noise"] if not reason.startswith(_SAID)]
    for a, b in _comparable_runs(document):
        for _, x, y in _missed(a, b):
            for case, other in ((x, y), (y, x)):
                case["noise"].append(f"{_SAID} {other['ratio']:.2f} for its {case['ratio']:.2f}")


def agreement(a: Json, b: Json) -> str:
    """How far the ratios of two runs lie apart, and which cases are marked for it."""
    count = len(_pairs(a, b))
    apart = [_apart(x, y) for _, x, y in _undisturbed(a, b)]
    if not apart:
        return f"{a['started']} and {b['started']}: none of {count} ratios was undisturbed in both."
    found = (
        f"{a['started']} and {b['started']}: {len(apart)} of {count} ratios undisturbed in both, which "
        f"differ by {max(apart):.0%} at most"
    )
    missed = sorted(name for name, _, _ in _missed(a, b))
    return found + (f"; not within {MOST_APART:.0%}, and marked: {', '.join(missed)}." if missed else ".")


def _missed(a: Json, b: Json) -> list[tuple[str, Json, Json]]:
    """Of the undisturbed ratios, those that the two runs do not agree on."""
    return [(name, x, y) for name, x, y in _undisturbed(a, b) if _apart(x, y) > MOST_APART]


def _undisturbed(a: Json, b: Json) -> list[tuple[str, Json, Json]]:
    """Name and both cases of each ratio that nothing disturbed in either run."""
    return [(name, x, y) for name, (x, y) in _pairs(a, b).items() if _quiet(x) and _quiet(y)]


def _apart(x: Json, y: Json) -> float:
    return abs(float(x["ratio"]) / float(y["ratio"]) - 1)


def _quiet(case: Json) -> bool:
    return all(reason.startswith(_SAID) for reason in case["noise"])


def _pairs(a: Json, b: Json) -> dict[str, tuple[Json, Json]]:
    """The cases with a ratio in both."""
    of_b = {key(c): c for c in b["cases"] if c["ratio"]}
    return {key(c): (c, of_b[key(c)]) for c in a["cases"] if c["ratio"] and key(c) in of_b}


def _comparable_runs(document: Json) -> Iterator[tuple[Json, Json]]:
    return ((a, b) for a, b in combinations(_measured(document), 2) if _comparable(a, b))


def _measured(document: Json) -> list[Json]:
    return [run for run in document["runs"] if run["origin"] == MEASURED]


def _comparable(a: Json, b: Json) -> bool:
    same_machine = a["label"] == b["label"] and a["machine"]["cpus"] == b["machine"]["cpus"]
    return same_machine and a["plan"]["reference"] == b["plan"]["reference"] and bool(_pairs(a, b))
