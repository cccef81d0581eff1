"""Trims a tokenizer to an alphabet: the same tokens for every text written in it, fewer rows in the table.

The trimmed tokenizer keeps the byte entries, the control tokens, and every entry written in the alphabet with
all its merges. The parts of such an entry are written in the alphabet too, so no token that such a text can
reach is lost. Other characters become bytes. There is one exception: reserved entries (`<unused7>`), which no
model was trained with, are dropped, and a text that has one is read as its characters. Entries are never
dropped by frequency: that would change ids inside the alphabet. `trimming` cuts the embedding table to match.
"""

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_export.errors import ExportError
from embedding_export.files.tokenizer_file import TokenizerFile
from embedding_export.files.tokenizer_json import BYTES, SPACE, BytePairs

_ASCII = ((0x00, 0x7F),)
_PUNCTUATION = ((0x2000, 0x206F), (0x20A0, 0x20BF), (0x2100, 0x214F), (0x2190, 0x21FF), (0x2200, 0x22FF))
_LATIN = (
    *_ASCII,
    (0xA0, 0x24F),
    (0x250, 0x2FF),
    (0x300, 0x36F),
    (0x1E00, 0x1EFF),
    *_PUNCTUATION,
    (0xFB00, 0xFB06),
)
ALPHABETS: dict[str, tuple[tuple[int, int], ...]] = {
    "ascii": _ASCII,
    "latin": _LATIN,
    "greek": (*_ASCII, *_PUNCTUATION, (0x300, 0x36F), (0x370, 0x3FF), (0x1F00, 0x1FFF)),
    "cyrillic": (*_ASCII, *_PUNCTUATION, (0x300, 0x36F), (0x400, 0x52F), (0x1C80, 0x1C8F), (0x2DE0, 0x2DFF)),
}
RESERVED = re.compile(r"<unused\d+>")
_SEED = 12
_SAMPLE = 2000


@dataclass(frozen=True)
class Trimmed:
    """A trimmed tokenizer.

    `kept_ids` has shape (new entries,), int64: row `new` of a trimmed table is row `kept_ids[new]` of the
    full one. `outside` is how many tokens a dropped entry's text becomes, on average over `_SAMPLE` of them.
    """

    alphabet: str
    characters: int
    entries: int
    kept_ids: NDArray[np.int64]
    tokenizer: TokenizerFile
    outside: float
    proved: int

    def summary(self) -> str:
        """One sentence on the size saved, and one on the cost of text outside the alphabet."""
        share = 100 * (1 - len(self.kept_ids) / self.entries)
        return (
            f"Alphabet {self.alphabet} ({self.characters} characters): {len(self.kept_ids)} of "
            f"{self.entries} entries stay, {share:.0f} % of the embedding table is saved. Text in other "
            f"characters costs more (what was one token becomes {self.outside:.1f} on average), and its "
            "vectors are not the full model's."
        )

    def renumbered(self, tokenizer_config: dict[str, Any]) -> dict[str, Any]:
        """tokenizer_config.json for the trimmed tokenizer: its `added_tokens_decoder` is keyed by id."""
        if "added_tokens_decoder" not in tokenizer_config:
            return tokenizer_config
        new = {int(old): i for i, old in enumerate(self.kept_ids)}
        decoder = tokenizer_config["added_tokens_decoder"].items()
        token_by_id = {str(new[int(old)]): token for old, token in decoder if int(old) in new}
        return tokenizer_config | {"added_tokens_decoder": token_by_id}


def trim(source: TokenizerFile, alphabet: str, *, required: str = "") -> Trimmed:
    """Trim a tokenizer to an alphabet, and check that texts inside it still give the same tokens.

    `alphabet` lists, joined by `+`, names of `ALPHABETS` and text files whose characters are the alphabet.
    The lower-case forms of its characters, the space, and the characters of `required` (the prompts) always
    belong to it.

    Raises:
        ExportError: an unknown name, an unreadable or empty file, or the check failed.
        UnsupportedTokenizer: the tokenizer is of a kind that is not reproduced, so nothing can be promised.
        CheckpointError: `source` cannot be read.
    """
    chars = read_alphabet(alphabet) | set(required)
    full, data = source.pairs, source.data
    kept_ids = _select_ids(full, chars | {SPACE}, {data["model"].get("unk_token"), *source.owner_tokens})
    smaller = TokenizerFile.of(_trimmed_json(data, full, kept_ids), source.path, lower=source.lower)
    proof = _Proof(source, smaller, kept_ids)
    proved = proof.inside(sorted(chars))
    outside = proof.outside()
    return Trimmed(alphabet, len(chars), len(full.pieces), kept_ids, smaller, outside, proved)


def read_alphabet(alphabet: str) -> frozenset[str]:
    """The characters of an alphabet; see `trim`."""
    chars: set[str] = {" "}
    for name in alphabet.split("+"):
        chars |= _named(name) if name in ALPHABETS else _from_file(Path(name))
    return frozenset(chars).union(*(char.lower() for char in chars))


def _named(name: str) -> set[str]:
    return {chr(c) for first, last in ALPHABETS[name] for c in range(first, last + 1)}


def _from_file(path: Path) -> set[str]:
    try:
        characters = set(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as e:
        raise ExportError(
            f"--alphabet {path} is neither one of {', '.join(ALPHABETS)} nor a UTF-8 text file ({e}). Name "
            "one of these, or a file that holds every character of the alphabet."
        ) from e
    if not characters - {"\n", " "}:
        raise ExportError(
            f"--alphabet {path} is empty. Expected a file with every character of the alphabet."
        )
    return characters


def _select_ids(full: BytePairs, chars: frozenset[str], named: set[str | None]) -> NDArray[np.int64]:
    """Old ids that stay, ascending, so that the entries keep their order; tokens in `named` always stay."""
    control = {a.token_id for a in full.added if a.special} | {full.bos_id, full.eos_id}
    always = control | {full.vocab[b] for b in BYTES}
    always |= {i for i, piece in enumerate(full.pieces) if piece in named}
    always |= {a.token_id for a in full.added if a.content in named}
    reserved = {a.token_id for a in full.added if RESERVED.fullmatch(a.content)}
    written = {i for i, piece in enumerate(full.pieces) if chars.issuperset(piece)}
    return np.array(sorted(always | (written - reserved)), np.int64)


def _trimmed_json(data: dict[str, Any], full: BytePairs, kept_ids: NDArray[np.int64]) -> dict[str, Any]:
    new = {int(old): i for i, old in enumerate(kept_ids)}
    model = data["model"] | {
        "vocab": {piece: new[old] for piece, old in full.vocab.items() if old in new},
        "merges": [
            merge
            for merge, ids in zip(data["model"]["merges"], full.merges, strict=True)
            if all(i in new for i in ids)
        ],
    }
    added = [a | {"id": new[a["id"]]} for a in data["added_tokens"] if a["id"] in new]
    template = data["post_processor"]
    ends = {
        name: token | {"ids": [new[i] for i in token["ids"]]}
        for name, token in template["special_tokens"].items()
    }
    return data | {
        "model": model,
        "added_tokens": added,
        "post_processor": template | {"special_tokens": ends},
    }


class _Proof:
    """Both tokenizers in the `tokenizers` library."""

    def __init__(self, source: TokenizerFile, smaller: TokenizerFile, kept_ids: NDArray[np.int64]) -> None:
        assert smaller.pairs  # the compact table takes it
        self._old, self._new = source.library, smaller.library
        self._full = source.pairs
        self._kept_ids = kept_ids

    def inside(self, chars: list[str]) -> int:
        """Compare tokens of texts in the alphabet; returns their number."""
        texts = _texts(chars, [self._full.pieces[i] for i in self._kept_ids])
        for special in (False, True):
            self._old.encode_special_tokens = self._new.encode_special_tokens = not special
            pairs = zip(self._old.encode_batch(texts), self._new.encode_batch(texts), strict=True)
            for text, (old, new) in zip(texts, pairs, strict=True):
                if self._kept_ids[new.ids].tolist() != old.ids:
                    raise ExportError(
                        f"The trimmed tokenizer gives {new.tokens} for {text!r}, the full one {old.tokens}. "
                        "Please report this alphabet and tokenizer; export without --alphabet."
                    )
        return len(texts)

    def outside(self) -> float:
        """Mean number of tokens that the text of a dropped entry becomes; 1.0 where none was dropped."""
        dropped = sorted(set(range(len(self._full.pieces))) - set(self._kept_ids.tolist()))
        if not dropped:
            return 1.0
        sample = random.Random(_SEED).sample(dropped, min(len(dropped), _SAMPLE))
        texts = [self._full.pieces[i] for i in sample]
        encodings = self._new.encode_batch(texts, add_special_tokens=False)
        return sum(len(e.ids) for e in encodings) / len(encodings)


def _texts(chars: list[str], pieces: Iterable[str]) -> list[str]:
    """Texts in the alphabet: its characters, entries written in it, and mixtures of both."""
    draw, inside = random.Random(_SEED), frozenset(chars)
    words = [p.replace(SPACE, " ") for p in pieces]
    words = [w for w in words if inside.issuperset(w)] or chars
    texts = ["", " ", *("".join(draw.choices(chars, k=draw.randint(1, 40))) for _ in range(_SAMPLE))]
    for _ in range(_SAMPLE):
        parts = draw.choices(words, k=draw.randint(1, 15)) + draw.choices(chars, k=draw.randint(0, 3))
        draw.shuffle(parts)
        texts.append(draw.choice(("", " ")).join(parts))
    return texts
