"""Texts that reveal a wrong tokenizer. Tokenizers go wrong at borders, so the texts are made of borders.

They are drawn from the tokenizer's own entries and from all of Unicode, with a fixed seed.
"""

import random

from embedding_export.files.tokenizer_json import SPACE, BytePairs

_SEED = 6
_FIXED = (
    "",
    " ",
    "  a",
    "a  ",
    " a b  c   d    e",
    f"a{SPACE}b {SPACE}{SPACE}c{SPACE} d",
    "\n\n\n \n\t\r\n",
    "\x00\x01\x7f\ufeff\u200d\u00ad\ufffd\uffff",
    "e\u0301 \u00e9 \u1100\u1161 \uac00",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇦🇹",
    "<0x41><0xFF> <unk <bos <bos><eos>x</s> [UNK]",
    "task: search result | query: Which planet is red?",
    "a" * 3000,
    " " * 3000,
    SPACE * 100 + "x",
    "ab" * 1500,
    "\n" * 100,
    "\U00010348" * 300,
)
_RANGES = ((0x20, 0x7E), (0x20, 0x24F), (0x370, 0x5FF), (0x900, 0xDFF), (0x3040, 0x30FF), (0x4E00, 0x9FFF))


def stress_texts(
    tokenizer: BytePairs, count: int = 1500, added: int = 500, left_out: tuple[str, ...] = ()
) -> list[str]:
    """The fixed texts, `added` of the added tokens next to other characters, and `count` random mixtures.

    `left_out` are tokens that the tokenizer lacks, to be read as text.
    """
    draw = random.Random(_SEED)
    contents = [a.content for a in tokenizer.added]
    tokens = [*draw.sample(contents, min(len(contents), added)), *left_out]
    around = [f"x{content} {content}{content}y" for content in tokens]
    words = [a.content for a in tokenizer.added if a.normalized]
    others = [f(word) for word in words[:added] for f in (str.upper, str.lower, _with_marks)]
    around += [f"x{word} {word}{word}y {word[:-1]}" for word in others]
    return [*_FIXED, *around, *(_mixture(draw, tokenizer.pieces, contents) for _ in range(count))]


def _with_marks(word: str) -> str:
    return word.replace(" ", SPACE)


def _mixture(draw: random.Random, pieces: tuple[str, ...], added: list[str]) -> str:
    parts = [_part(draw, pieces, added) for _ in range(draw.randint(1, 30))]
    return draw.choice(("", "", " ", SPACE)).join(parts)


def _part(draw: random.Random, pieces: tuple[str, ...], added: list[str]) -> str:
    kind = draw.random()
    if kind < 0.6:
        piece = draw.choice(pieces)
        return piece.replace(SPACE, " ") if draw.random() < 0.9 else piece
    if kind < 0.65 and added:
        return draw.choice(added)
    if kind < 0.75:
        return draw.choice(" a\n.") * draw.randint(1, 60)
    first, last = draw.choice(_RANGES) if kind < 0.95 else (0x10, 0x10FFFF)
    chars = (draw.randint(first, last) for _ in range(draw.randint(1, 12)))
    return "".join(chr(c) for c in chars if not 0xD800 <= c <= 0xDFFF)
