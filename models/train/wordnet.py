"""WordNet's database files → pairs; format: the manual page wndb(5WN). Knows nothing of other sources."""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import PurePosixPath

from train.pairs import Found, Pair
from train.sources import Package
from train.text import clean, words

_EXAMPLE = re.compile(r'"([^"]{3,})"')
# Pointer symbols: hypernym and instance hypernym; then relations that keep the topic.
_BROADER = ("@", "@i")
_DOMAIN = ";c"
_RELATED = ("+", "&", "^", "$", "*", ">", "%p", "%m", "%s", "#p", "\\", "=")
_PARTS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
# Endings of inflected words and what they stand for: the rules of detachment of morphy(7WN).
_ENDINGS = {
    "n": "s: ses:s ves:f xes:x zes:z ches:ch shes:sh men:man ies:y",
    "v": "s: ies:y es:e es: ed:e ed: ing:e ing:",
    "a": "er: est: er:e est:e",
}
_SHORTEST_BASE = 3
# Lexicographer files (lexnames(5WN)) of nouns, for the held-out classification.
TOPICS = {
    4: "action",
    5: "animal",
    6: "artifact",
    8: "body part",
    10: "communication",
    12: "feeling",
    13: "food",
    15: "place",
    18: "person",
    20: "plant",
    21: "money and possessions",
    27: "substance",
    28: "time",
}


@dataclass(frozen=True)
class Synset:
    """Words of one meaning; `pointers` are (symbol, key of the other synset)."""

    key: str
    topic: int
    lemmas: tuple[str, ...]
    pointers: tuple[tuple[str, str], ...]
    gloss: str
    examples: tuple[str, ...]


@dataclass(frozen=True)
class WordNet:
    """All synsets by key, and irregular inflections: (inflected, base)."""

    synsets: dict[str, Synset]
    inflections: tuple[tuple[str, str], ...]


def read(package: Package) -> WordNet:
    """Parse the package's data and exception files."""
    synsets: dict[str, Synset] = {}
    inflections: list[tuple[str, str]] = []
    for name, content in package.files():
        path, lines = PurePosixPath(name), content.decode("utf-8").splitlines()
        if path.suffix == ".exc":
            pairs = (line.replace("_", " ").split() for line in lines)
            inflections += [(p[0], p[1]) for p in pairs if len(p) == 2]
            continue
        part = _PARTS[path.suffix[1:]]
        for line in lines:
            if not line.startswith(" "):
                synset = _parse(line, part)
                synsets[synset.key] = synset
    return WordNet(synsets, tuple(inflections))


def _parse(line: str, part: str) -> Synset:
    data, _, text = line.partition(" | ")
    fields = data.split()
    count = int(fields[3], 16)
    lemmas = [re.sub(r"\((a|p|ip)\)$", "", w).replace("_", " ") for w in fields[4 : 4 + 2 * count : 2]]
    start = 5 + 2 * count
    end = start + 4 * int(fields[start - 1])
    pointers = tuple(
        (fields[i], f"{fields[i + 2].replace('s', 'a')}{fields[i + 1]}") for i in range(start, end, 4)
    )
    text = clean(text)
    gloss = _EXAMPLE.sub("", text).strip(" ;:")
    examples = tuple(clean(e) for e in _EXAMPLE.findall(text))
    return Synset(
        f"{part}{fields[0]}", int(fields[1]), tuple(dict.fromkeys(lemmas)), pointers, gloss, examples
    )


def glosses(wordnet: WordNet) -> Iterator[Found]:
    """A word, or all words of a meaning, and the definition."""
    for synset in wordnet.synsets.values():
        for lemma in synset.lemmas:
            yield Found(synset.key, Pair(lemma, synset.gloss))
        if len(synset.lemmas) > 1:
            yield Found(synset.key, Pair(", ".join(synset.lemmas), synset.gloss))


def broader(wordnet: WordNet) -> Iterator[Found]:
    """A word and a word for the kind of thing it is; a definition and the definition of its kind."""
    for synset in wordnet.synsets.values():
        for symbol, key in synset.pointers:
            if symbol in _BROADER and key in wordnet.synsets:
                above = wordnet.synsets[key]
                yield from (Found(synset.key, Pair(lemma, above.lemmas[0])) for lemma in synset.lemmas)
                yield Found(synset.key, Pair(synset.gloss, above.gloss))


def examples(wordnet: WordNet) -> Iterator[Found]:
    """An example sentence with its definition, its word, and the other examples of the meaning."""
    for synset in wordnet.synsets.values():
        for i, example in enumerate(synset.examples):
            if len(words(example)) < 3:
                continue
            yield Found(synset.key, Pair(example, synset.gloss))
            yield Found(synset.key, Pair(synset.lemmas[0], example))
            yield from (Found(synset.key, Pair(example, other)) for other in synset.examples[i + 1 :])


def senses(wordnet: WordNet, seed: int) -> Iterator[Found]:
    """An example and its definition, with the definition of another meaning of its word as hard negative."""
    rng = random.Random(seed)
    meanings = _meanings(wordnet)
    for synset in wordnet.synsets.values():
        for example in synset.examples:
            present = set(words(example))
            others = [
                other.gloss
                for lemma in synset.lemmas
                if lemma.lower() in present
                for other in meanings[lemma.lower()]
                if other is not synset
            ]
            if others:
                yield Found(synset.key, Pair(example, synset.gloss, rng.choice(others)))


def domains(wordnet: WordNet) -> Iterator[Found]:
    """A definition or a word, and the field that it belongs to, such as law or computer science."""
    for synset in wordnet.synsets.values():
        for symbol, key in synset.pointers:
            if symbol == _DOMAIN and key in wordnet.synsets:
                field = wordnet.synsets[key].lemmas[0]
                yield Found(synset.key, Pair(synset.gloss, field))
                yield Found(synset.key, Pair(synset.lemmas[0], field))


def related(wordnet: WordNet, seed: int) -> Iterator[Found]:
    """Words of related meanings (derived forms, parts, similar ones)."""
    rng = random.Random(seed)
    for synset in wordnet.synsets.values():
        for symbol, key in synset.pointers:
            if symbol in _RELATED and key in wordnet.synsets:
                left, right = rng.choice(synset.lemmas), rng.choice(wordnet.synsets[key].lemmas)
                yield Found(synset.key, Pair(left, right))


def inflections(wordnet: WordNet) -> Iterator[Found]:
    """An inflected word and its base: the irregular ones listed, regular ones where texts have them."""
    yield from (Found(base, Pair(inflected, base)) for inflected, base in wordnet.inflections)
    bases: dict[str, set[str]] = {part: set() for part in _ENDINGS}
    for synset in wordnet.synsets.values():
        bases.get(synset.key[0], set()).update(synset.lemmas)
    texts = (text for s in wordnet.synsets.values() for text in (s.gloss, *s.examples))
    forms: dict[str, set[str]] = {}
    for word in sorted({word for text in texts for word in words(text)}):
        for base in _bases(word, bases):
            forms.setdefault(base, set()).add(word)
    for base, found in forms.items():
        yield from (Found(base, Pair(word, base)) for word in sorted(found))
        yield from (Found(base, Pair(a, b)) for a, b in combinations(sorted(found), 2))


def _bases(word: str, known: dict[str, set[str]]) -> set[str]:
    """Words that `word` may be an inflection of."""
    found = set()
    for part, rules in _ENDINGS.items():
        for ending, _, full in (rule.partition(":") for rule in rules.split()):
            base = word.removesuffix(ending) + full
            if word.endswith(ending) and len(base) >= _SHORTEST_BASE and base in known[part]:
                found.add(base)
    return found - {word}


def topics(wordnet: WordNet) -> Iterator[Found]:
    """A definition and the name of the topic it is filed under: for classification, not for training."""
    for synset in wordnet.synsets.values():
        if synset.key.startswith("n") and synset.topic in TOPICS and len(words(synset.gloss)) > 2:
            yield Found(synset.key, Pair(synset.gloss, TOPICS[synset.topic]))


def synonyms(wordnet: WordNet) -> dict[str, tuple[str, ...]]:
    """Other single words of each word's only meaning; a word of several meanings has none."""
    found = {}
    for lemma, held in _meanings(wordnet).items():
        others = [w for s in held for w in s.lemmas if w.lower() != lemma and " " not in w]
        if len(held) <= 2 and others:
            found[lemma] = tuple(others)
    return found


def _meanings(wordnet: WordNet) -> dict[str, list[Synset]]:
    """The synsets of each word, in lower case."""
    meanings: dict[str, list[Synset]] = {}
    for synset in wordnet.synsets.values():
        for lemma in synset.lemmas:
            meanings.setdefault(lemma.lower(), []).append(synset)
    return meanings
