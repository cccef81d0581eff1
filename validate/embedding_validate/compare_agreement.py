"""Whether two runs on one machine agree: every ratio within 15 %, or the case marked. A pure function."""

from itertools import combinations
from typing import Any

from embedding_validate.compare_case import MEASURED
from embedding_validate.compare_store import key

Json = dict[str, Any]
MOST_APART = 0.15


def agreements(document: Json) -> list[str]:
    """A sentence for every two runs of one plan on one machine."""
    runs = [run for run in document["runs"] if run["origin"] == MEASURED]
    return [agreement(a, b) for a, b in combinations(runs, 2) if _comparable(a, b)]


def agreement(a: Json, b: Json) -> str:
    """How far the ratios of two runs lie apart, and whether the cases that do are marked."""
    pairs = _pairs(a, b)
    apart = {name: abs(x["ratio"] / y["ratio"] - 1) for name, (x, y) in pairs.items()}
    quiet = {name for name, (x, y) in pairs.items() if not x["noise"] and not y["noise"]}
    missed = sorted(name for name in quiet if apart[name] > MOST_APART)
    most = max((apart[name] for name in quiet), default=0.0)
    if not quiet:
        return f"{a['started']} and {b['started']}: none of {len(pairs)} ratios was undisturbed in both."
    found = (
        f"{a['started']} and {b['started']}: {len(quiet)} of {len(pairs)} ratios undisturbed in both, which "
        f"differ by {most:.0%} at most"
    )
    return found + (f"; not within {MOST_APART:.0%}: {', '.join(missed)}." if missed else ".")


def _pairs(a: Json, b: Json) -> dict[str, tuple[Json, Json]]:
    """The cases with a ratio in both."""
    of_b = {key(c): c for c in b["cases"] if c["ratio"]}
    return {key(c): (c, of_b[key(c)]) for c in a["cases"] if c["ratio"] and key(c) in of_b}


def _comparable(a: Json, b: Json) -> bool:
    same_machine = a["label"] == b["label"] and a["machine"]["cpus"] == b["machine"]["cpus"]
    return same_machine and a["plan"]["reference"] == b["plan"]["reference"] and bool(_pairs(a, b))
