"""Chooses pairs for each training step, and the prompts they are given; knows nothing of models.

All pairs of a batch come from one data set, so that its negatives are of the same kind.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from standin_config import PROMPTS

from train.corpus import Column, DataSet, Ints, Texts

# Weight of each data set: how often a batch is drawn from it.
WEIGHTS: Mapping[str, float] = {
    "wordnet-gloss": 5.0,
    "wordnet-broader": 3.0,
    "wordnet-examples": 3.0,
    "wordnet-related": 1.0,
    "wordnet-senses": 1.0,
    "wordnet-domains": 0.4,
    "requests": 0.4,
    "inflections": 1.5,
    "headings": 1.0,
    "neighbours": 1.0,
    "windows": 3.0,
    "rewordings": 3.0,
    "emoji": 0.15,
    "factbook": 0.25,
    "answers": 0.05,
}
# (prompt of the left text, of the right text, weight); the empty name is no prompt.
_ALIKE = (
    ("", "", 4.0),
    ("STS", "STS", 4.0),
    ("Clustering", "Clustering", 0.7),
    ("Classification", "Classification", 1.0),
    ("Summarization", "Summarization", 0.3),
)
_SEARCH = (
    ("query", "document", 4.0),
    ("", "", 2.0),
    ("STS", "STS", 2.0),
    ("InstructionRetrieval", "document", 0.3),
)
_LABELLED = (
    ("Classification", "Classification", 3.0),
    ("", "", 1.0),
    ("Clustering", "Clustering", 0.5),
    ("STS", "STS", 0.5),
)
_SEARCH_SHARE = 0.6
_SEARCHED = ("headings", "factbook", "answers", "wordnet-gloss")
_NAMED = ("wordnet-domains", "requests")


@dataclass(frozen=True)
class Side:
    """Texts of one side: joined ids, the length of each text, their hashes and the prompt's name."""

    ids: Ints
    lengths: Ints
    keys: Ints
    prompt: str


@dataclass(frozen=True)
class Batch:
    """Left and right belong together row by row; `negative` holds hard negatives of some rows."""

    name: str
    left: Side
    right: Side
    negative: Side | None


class Sampler:
    """Endless batches from a seed; the same seed and step give the same batch, so that training resumes."""

    def __init__(self, sets: list[DataSet], size: int, seed: int) -> None:
        self.sets, self.size, self.seed = sets, size, seed
        weights = np.array([WEIGHTS[s.name] for s in sets])
        self.share: NDArray[np.float64] = weights / weights.sum()

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        rng = np.random.default_rng([self.seed, step])
        chosen = self.sets[int(rng.choice(len(self.sets), p=self.share))]
        rows = rng.choice(len(chosen), size=min(self.size, len(chosen)), replace=False)
        searched = chosen.name in _SEARCHED and rng.random() < _SEARCH_SHARE
        prompts = _LABELLED if chosen.name in _NAMED else _SEARCH if searched else _ALIKE
        weights = np.array([w for _, _, w in prompts])
        left, right, _ = prompts[int(rng.choice(len(prompts), p=weights / weights.sum()))]
        negative = None
        if chosen.negative is not None:
            texts = _form(chosen.negative, right)
            filled = rows[texts.starts[rows + 1] > texts.starts[rows]]
            negative = side(chosen.negative, filled, right)
        return Batch(chosen.name, side(chosen.left, rows, left), side(chosen.right, rows, right), negative)


def side(column: Column, rows: Ints, prompt: str) -> Side:
    """The texts of some rows, in the form that the prompt asks for."""
    texts = _form(column, prompt)
    ids, lengths = texts.take(rows)
    return Side(ids, lengths, column.plain.keys[rows], prompt)


def prompt_text(name: str) -> str:
    """The prompt's text without its last space, which the first word of the text has taken."""
    return PROMPTS[name].rstrip(" ") if name else ""


def _form(column: Column, prompt: str) -> Texts:
    return column.prompted if prompt else column.plain
