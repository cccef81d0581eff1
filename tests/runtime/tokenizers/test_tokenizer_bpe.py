"""The open-ended merge against merging the whole, on random merge rules where every order of ranks occurs."""

import random
from collections import defaultdict
from itertools import pairwise

from embedding_runtime.tokenizers.bpe import ID_BITS, NO_MERGE, RANK_SHIFT, _OpenMerge

Rules = dict[tuple[str, str], int]


def random_rules(draw: random.Random) -> Rules:
    """Merges over two or three letters, each of entries that exist, in random order of rank."""
    entries = list("abc"[: draw.randint(2, 3)])
    pairs: set[tuple[str, str]] = set()
    for _ in range(draw.randint(3, 14)):
        left, right = draw.choice(entries), draw.choice(entries)
        if len(left + right) <= 6:
            pairs.add((left, right))
            entries.append(left + right)
    ordered = sorted(pairs)
    draw.shuffle(ordered)
    return {pair: rank for rank, pair in enumerate(ordered)}


def merged(text: str, rules: Rules) -> tuple[list[str], int]:
    """The rule itself, word for word; tokens and the highest rank used."""
    tokens, highest = list(text), -1
    while True:
        ranks = [(rules[p], i) for i, p in enumerate(pairwise(tokens)) if p in rules]
        if not ranks:
            return tokens, highest
        rank, i = min(ranks)
        highest = max(highest, rank)
        tokens[i : i + 2] = [tokens[i] + tokens[i + 1]]


def open_merge(text: str, known: int, rules: Rules) -> tuple[list[str], int]:
    """`_OpenMerge` on the first `known` characters of `text`; tokens and border."""
    entries = sorted({e for pair in rules for e in (*pair, "".join(pair))} | set(text))
    ids = {entry: i for i, entry in enumerate(entries)}
    pairs: dict[int, int] = defaultdict(lambda: NO_MERGE)
    results = [0] * len(rules)
    for (left, right), rank in rules.items():
        key = ids[left] << ID_BITS | ids[right]
        pairs[key] = rank << RANK_SHIFT | key
        results[rank] = ids[left + right]

    def ahead(border: int, longer_than: int) -> list[tuple[int, int]]:
        found = [e for e in entries if len(e) > longer_than and text.startswith(e, border)]
        return [(ids[e], merged(e, rules)[1]) for e in found if merged(e, rules)[0] == [e]]

    symbols = [ids[c] for c in text[:known]]
    tokens, border = _OpenMerge(symbols, ahead, pairs, results).run()  # type: ignore[arg-type]
    return [entries[t] for t in tokens], border


def test_what_is_certain_is_what_the_whole_gives() -> None:
    draw, certain, total = random.Random(1), 0, 0
    for _ in range(4000):
        rules = random_rules(draw)
        letters = sorted({c for pair in rules for c in "".join(pair)})
        text = "".join(draw.choices(letters, k=draw.randint(6, 40)))
        known = draw.randint(2, len(text) - 1)
        tokens, border = open_merge(text, known, rules)
        assert "".join(tokens) == text[:border]
        assert tokens + merged(text[border:], rules)[0] == merged(text, rules)[0], (rules, text, known)
        certain, total = certain + border, total + known
    assert certain > total / 2, "so cautious that nothing is gained"
