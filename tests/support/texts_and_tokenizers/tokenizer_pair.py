"""One tokenizer.json as a compact table and in the `tokenizers` library, and texts to compare them on."""

import random
import unicodedata
from pathlib import Path
from typing import Any

from embedding_export.files.tokenizer_file import TokenizerFile
from embedding_export.tokenizer.table import build_table
from embedding_runtime.bundle import TokenizerInfo
from embedding_runtime.tokenizers.table import TableTokenizer

SHARED = Path(__file__).parents[4] / "shared" / "standin-tokenizer" / "tokenizer.json"
SCRIPTS = {
    "latin": (0x41, 0x17F),
    "greek": (0x370, 0x3FF),
    "cyrillic": (0x400, 0x4FF),
    "armenian": (0x531, 0x587),
    "hebrew": (0x590, 0x5F4),
    "arabic": (0x600, 0x6FF),
    "devanagari": (0x900, 0x97F),
    "bengali": (0x981, 0x9FA),
    "tamil": (0xB82, 0xBF2),
    "telugu": (0xC01, 0xC6F),
    "thai": (0xE01, 0xE5B),
    "tibetan": (0xF00, 0xFCF),
    "georgian": (0x10A0, 0x10FF),
    "ethiopic": (0x1200, 0x137C),
    "kana": (0x3041, 0x30FF),
    "han": (0x4E00, 0x9FFF),
    "hangul": (0xAC00, 0xD7A3),
    "emoji": (0x1F300, 0x1FAFF),
    "gothic": (0x10330, 0x1034A),
    "code": (0x20, 0x7E),
}


class Both:
    """One tokenizer as a table and in the library."""

    def __init__(self, tokenizer_json: Path | TokenizerFile, out: Path) -> None:
        file = tokenizer_json if isinstance(tokenizer_json, TokenizerFile) else TokenizerFile(tokenizer_json)
        self.source, self.added = file.pairs, file.data["added_tokens"]
        self.built = build_table(file, out)
        self.path = out
        self.info = TokenizerInfo(
            out.name, self.built.vocab_size, self.built.bos_id, self.built.eos_id, 0, file.lower, ()
        )
        self.table = TableTokenizer.open(out, self.info)
        self.library: Any = file.library

    def expected(self, text: str, length: int | None = None, allow_special: bool = False) -> list[int]:
        self.library.encode_special_tokens = not allow_special
        ids: list[int] = self.library.encode(text).ids
        return ids if length is None or len(ids) <= length else [*ids[: length - 1], self.info.eos_id]

    def check(self, text: str) -> None:
        for special in (False, True):
            whole = self.expected(text, allow_special=special)
            for length in (None, 2, 8, 2048):
                fits = length is None or len(whole) <= length
                wanted = whole if fits else [*whole[: (length or 0) - 1], self.info.eos_id]
                assert self.table.encode(text, length, allow_special=special) == wanted, (
                    text,
                    length,
                    special,
                )


def lines(count: int, seed: int) -> list[str]:
    """Words in one script per line, some with marks, digits, several spaces or a word of another script."""
    draw, names = random.Random(seed), list(SCRIPTS)

    def word(script: str) -> str:
        return "".join(chr(draw.randint(*SCRIPTS[script])) for _ in range(draw.randint(1, 10)))

    def line(i: int) -> str:
        words = [word(names[i % len(names)]) for _ in range(draw.randint(1, 12))]
        if draw.random() < 0.3:
            words.append(word(draw.choice(names)))
        text = draw.choice((" ", " ", "  ", "\t", ", ", "")).join(words)
        return unicodedata.normalize(draw.choice(("NFC", "NFD")), text)

    return [line(i) for i in range(count)]


def from_pieces(both: Both, count: int, seed: int) -> list[str]:
    """Entries of the vocabulary joined at random, so that long merges and their borders occur."""
    draw = random.Random(seed)
    pieces = both.source.pieces

    def text() -> str:
        chosen = draw.choices(pieces, k=draw.randint(1, 25))
        return draw.choice(("", "", " ")).join(chosen).replace("▁", draw.choice((" ", " ", "▁")))

    return [text() for _ in range(count)]
