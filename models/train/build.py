"""Packages → data sets of pairs on disk, split, filtered and recorded; each is made once and then kept.

Knows which data sets there are and what every one is made of; nothing of models.
"""

import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Literal, get_args

from train import augment, documents, requests, small_sources, wordnet
from train.decontaminate import Excluded
from train.documents import Section
from train.pairs import Found, Pair, read_pairs, write_pairs
from train.sources import SOURCES, Package, fetch, record
from train.text import words
from train.wordnet import WordNet

Split = Literal["train", "dev", "test"]

DOCUMENTATION = ("python", "postgresql", "sqlite", "apache", "django", "sqlalchemy", "flask", "node", "rust")
MOST_CHARACTERS = 600
_HELD_OUT = 100
# Kept out of training and only used to measure.
MEASURED_ONLY = ("topics",)
# What the tokenizer is learned from: documentation would fill it with its own terms.
VOCABULARY = (
    "wordnet-gloss",
    "wordnet-examples",
    "wordnet-related",
    "headings",
    "emoji",
    "factbook",
    "answers",
)


@dataclass(frozen=True)
class Plan:
    """Where things lie and what must stay out; `note` is called with one line per step."""

    folder: Path
    excluded: Excluded
    seed: int
    note: Callable[[str], None]

    def file(self, name: str, split: Split) -> Path:
        """Where a split of a data set is."""
        return self.folder / "data" / f"{name}.{split}.tsv"


class Material:
    """What data sets are made from, read when first asked for."""

    def __init__(self, packages: dict[str, Package], seed: int) -> None:
        self.packages, self.seed = packages, seed

    @cached_property
    def wordnet(self) -> WordNet:
        """WordNet, parsed."""
        return wordnet.read(self.packages["wordnet"])

    @cached_property
    def pages(self) -> list[list[Section]]:
        """The pages of all documentation."""
        return [page for name in DOCUMENTATION for page in documents.read(self.packages[name])]

    def prose(self) -> Iterator[tuple[str, str]]:
        """(group, sentence) of documentation, and of WordNet's definitions and examples."""
        yield from documents.prose(self.pages)
        for synset in self.wordnet.synsets.values():
            yield from ((synset.key, text) for text in (synset.gloss, *synset.examples))


RECIPES: dict[str, Callable[[Material], Iterable[Found]]] = {
    "wordnet-gloss": lambda m: wordnet.glosses(m.wordnet),
    "wordnet-broader": lambda m: wordnet.broader(m.wordnet),
    "wordnet-examples": lambda m: wordnet.examples(m.wordnet),
    "wordnet-related": lambda m: wordnet.related(m.wordnet, m.seed),
    "inflections": lambda m: wordnet.inflections(m.wordnet),
    "wordnet-senses": lambda m: wordnet.senses(m.wordnet, m.seed),
    "wordnet-domains": lambda m: wordnet.domains(m.wordnet),
    "requests": lambda m: requests.labelled(requests.load(), m.seed),
    "topics": lambda m: wordnet.topics(m.wordnet),
    "headings": lambda m: documents.headings(m.pages, m.seed),
    "neighbours": lambda m: documents.neighbours(m.pages),
    "windows": lambda m: augment.windows(m.prose(), m.seed),
    "rewordings": lambda m: augment.rewordings(m.prose(), wordnet.synonyms(m.wordnet), m.seed),
    "emoji": lambda m: small_sources.cldr(m.packages["cldr"]),
    "factbook": lambda m: small_sources.factbook(m.packages["factbook"]),
    "answers": lambda m: small_sources.chatterbot(m.packages["chatterbot"]),
}


def build(plan: Plan) -> dict[str, dict[str, int]]:
    """Make every data set that is not there yet; returns the counts of all (and keeps them in data.json).

    Raises:
        train.sources.SourceError: a package cannot be had.
    """
    packages = [fetch(source, plan.folder / "raw") for source in SOURCES]
    (plan.folder / "data").mkdir(parents=True, exist_ok=True)
    record(packages, plan.folder / "data" / "sources.json")
    material = Material({p.source.name: p for p in packages}, plan.seed)
    counts: dict[str, dict[str, int]] = {}
    for name, recipe in RECIPES.items():
        done = plan.folder / "data" / f"{name}.json"
        if not done.exists():
            made = _make(plan, name, recipe(material))
            done.write_text(json.dumps(made) + "\n", encoding="utf-8")
        counts[name] = json.loads(done.read_text(encoding="utf-8"))
        plan.note(f"{name}: {counts[name]}")
    return counts


def _make(plan: Plan, name: str, found: Iterable[Found]) -> dict[str, int]:
    """Filter, split and write one data set."""
    splits: dict[Split, list[Pair]] = {s: [] for s in get_args(Split)}
    seen: set[Pair] = set()
    counts: Counter[str] = Counter()
    for group, pair in found:
        fault = _fault(pair, seen, plan.excluded)
        if fault:
            counts[fault] += 1
            continue
        seen.add(pair)
        splits[split_of(group)].append(pair)
    for split, pairs in splits.items():
        counts[split] = write_pairs(plan.file(name, split), pairs)
    return dict(counts)


def _fault(pair: Pair, seen: set[Pair], excluded: Excluded) -> str:
    """Why a pair is left out, or nothing."""
    if pair in seen:
        return "repeated"
    if not pair.left or not pair.right or words(pair.left) == words(pair.right):
        return "empty or equal"
    if max(map(len, pair)) > MOST_CHARACTERS:
        return "too long"
    if any(excluded.holds(text) for text in pair if text):
        return "in the evaluation"
    return ""


def split_of(group: str) -> Split:
    """Chosen by a hash of the group: one in a hundred for settings (dev), one for the figures (test)."""
    place = zlib.crc32(group.encode()) % _HELD_OUT
    return "dev" if place == 0 else "test" if place == 1 else "train"


def texts(plan: Plan) -> Iterator[str]:
    """Texts of the training split for the tokenizer: every sentence about once, everyday words first."""
    for name in VOCABULARY:
        yield from chain.from_iterable((p.left, p.right) for p in read_pairs(plan.file(name, "train")))
