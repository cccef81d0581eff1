"""Short requests as people send them to an office, each with the name of the department it is for.

Written for this recipe and filled in at random, as no permissive package has such texts. Names are made of a
subject and a suffix ("delivery" and "problem"), so that a model learns both; some combinations are left out
on purpose (`UNSEEN`), to be asked for later. Knows nothing of other sources.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from train.pairs import Found, Pair

_FILE = Path(__file__).with_name("requests.json")
# Names that the tutorial asks for: training must not have seen them.
UNSEEN = frozenset({"technical support", "billing issue", "sales inquiry"})
_FILLINGS = 24


@dataclass(frozen=True)
class Requests:
    """What requests are made of: openings, closings, suffixes, and departments by their subjects."""

    openings: tuple[str, ...]
    closings: tuple[str, ...]
    suffixes: tuple[str, ...]
    things: dict[str, tuple[str, ...]]
    departments: dict[str, tuple[str, ...]]


def load() -> Requests:
    """The parts, as `requests.json` has them."""
    parts = json.loads(_FILE.read_text(encoding="utf-8"))
    openings, closings, suffixes = (tuple(parts[k]) for k in ("openings", "closings", "suffixes"))
    things, departments = ({n: tuple(v) for n, v in parts[k].items()} for k in ("things", "departments"))
    return Requests(openings, closings, suffixes, things, departments)


def labelled(requests: Requests, seed: int) -> Iterator[Found]:
    """A request and a name of its department; requests of one wording are one group."""
    rng = random.Random(seed)
    for subjects, wordings in requests.departments.items():
        names = _names(subjects, requests.suffixes)
        for wording in wordings:
            for _ in range(_FILLINGS):
                yield Found(wording, Pair(_request(wording, requests, rng), rng.choice(names)))


def _names(subjects: str, suffixes: tuple[str, ...]) -> list[str]:
    listed = [s.strip() for s in subjects.split(",")]
    return [n for n in (f"{s} {x}".strip() for s, x in product(listed, suffixes)) if n not in UNSEEN]


def _request(wording: str, requests: Requests, rng: random.Random) -> str:
    """An opening, the wording with its places filled in, a closing; the outer two are often left out."""
    chosen = {name: rng.choice(listed) for name, listed in requests.things.items()}
    parts = [rng.choice(requests.openings), wording.format(**chosen), rng.choice(requests.closings)]
    return " ".join(p for p in parts if p)
