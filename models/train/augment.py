"""Sentences → pairs that mean the same: overlapping windows, and words replaced or left out."""

import random
from collections.abc import Iterable, Iterator, Mapping

from train.pairs import Found, Pair

_FEWEST_FOR_WINDOWS = 9
_REPLACED, _LEFT_OUT = 0.35, 0.15


def windows(prose: Iterable[tuple[str, str]], seed: int) -> Iterator[Found]:
    """Two windows of a sentence that share some words."""
    rng = random.Random(seed)
    for group, sentence in prose:
        parts = sentence.split(" ")
        if len(parts) >= _FEWEST_FOR_WINDOWS:
            middle = rng.randint(len(parts) // 3, 2 * len(parts) // 3)
            overlap = rng.randint(0, len(parts) // 4)
            yield Found(group, Pair(" ".join(parts[: middle + overlap]), " ".join(parts[middle:])))


def rewordings(
    prose: Iterable[tuple[str, str]], synonyms: Mapping[str, tuple[str, ...]], seed: int
) -> Iterator[Found]:
    """A sentence, and the sentence with some words replaced by synonyms and some left out."""
    rng = random.Random(seed)
    for group, sentence in prose:
        changed = [_reword(word, synonyms, rng) for word in sentence.split(" ")]
        other = " ".join(word for word in changed if word)
        if other and other != sentence:
            yield Found(group, Pair(sentence, other))


def _reword(word: str, synonyms: Mapping[str, tuple[str, ...]], rng: random.Random) -> str:
    bare = word.strip(".,;:()\"'").lower()
    if bare in synonyms and rng.random() < _REPLACED:
        return rng.choice(synonyms[bare])
    return "" if rng.random() < _LEFT_OUT else word
