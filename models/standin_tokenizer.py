"""A byte-fallback BPE tokenizer of Gemma 3's and 4's construction, synthesised from a seed.

Knows nothing of weights or models, and of language no more than an alphabet per script and a short list
of English words: pieces of several characters come from a seeded closure in which a new piece is always
two earlier pieces joined, so that every merge's parts are entries too.
"""

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SPACE = "▁"
LONGEST_RUN = 31
LONGEST_PIECE = 16
LEADING_UNUSED = 99
# Of 262,144 entries: reserved ones at the table's end, and merges.
TRAILING_UNUSED, MERGES, ENTRIES = 6_143, 514_906, 262_144

# Where the second model's media tokens begin among the reserved ones at the end.
MEDIA_AT = 2_879

IMAGE = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
MEDIA = {
    "image_token": "<|image|>",
    "audio_token": "<|audio|>",
    "eoi_token": "<image|>",
    "eoa_token": "<audio|>",
    "video_token": "<|video|>",
    "boi_token": "<|image>",
    "boa_token": "<|audio>",
}
TURNS = {
    "std_token": "<|tool>",
    "etd_token": "<tool|>",
    "stc_token": "<|tool_call>",
    "etc_token": "<tool_call|>",
    "str_token": "<|tool_response>",
    "etr_token": "<tool_response|>",
    "escape_token": '<|"|>',
    "think_token": "<|think|>",
    "soc_token": "<|channel>",
    "eoc_token": "<channel|>",
    "sot_token": "<|turn>",
    "eot_token": "<turn|>",
}
_ENDS = frozenset({"<pad>", "<eos>", "<bos>", "<unk>"})

_BLOCK_TAGS = "table caption thead tbody tfoot tr th td h1 h2 h3 h4 h5 h6 blockquote"
_INLINE_TAGS = "strong em b i u s sub sup code a img p ul ol li br hr div span pre"
_LATIN = "etaoinshrdlcumwfgypbvkjxqz"
_TAGS = f"{_BLOCK_TAGS} {_INLINE_TAGS}".split()
# Gemma's tokenizer has one piece with a space inside: a text cannot be merged word by word everywhere.
_ACROSS = ("</", f"{SPACE}</", f">{SPACE}</")

_WORDS = """
    the of and to in is for that on with as are this be by or from an at it was not have which can
    will has one all their more when you use if we there they he his her also may other new two
    first time these into only some about than most such been where who its no but what how your out
    up like each used many make way then between under after because people world water year day
    work part place right number language system text model data file function return import class
    def self value name type list string int print query task search result title none document
    sentence similarity classification clustering code retrieval question answering planet red known
    weather today
"""


@dataclass(frozen=True)
class Script:
    """Characters in `ranges` (inclusive code points), and its share of the pieces of several characters."""

    name: str
    ranges: tuple[tuple[int, int], ...]
    share: float
    most: int = 14_000


@dataclass(frozen=True)
class Names:
    """What a generation of Gemma's tokenizers calls its added tokens.

    Attributes:
        special: those that are flagged so.
        leading: by id, in place of reserved ones at the table's head.
        borders: the two before the reserved ones at its end; `inside` follow among these.
        past: the one with the id past the table.
    """

    special: frozenset[str]
    leading: dict[int, str]
    borders: tuple[str, str]
    inside: tuple[str, ...]
    past: str | None


GEMMA_3 = Names(
    _ENDS | {"<start_of_turn>", "<end_of_turn>", *IMAGE.values()},
    {105: "<start_of_turn>", 106: "<end_of_turn>"},
    (IMAGE["boi_token"], IMAGE["eoi_token"]),
    (),
    IMAGE["image_token"],
)
GEMMA_4 = Names(
    _ENDS | {"<mask>", *MEDIA.values(), *TURNS.values()},
    dict(zip((*range(46, 53), 98, 100, 101, 105, 106), TURNS.values(), strict=True)),
    (MEDIA["boi_token"], MEDIA["boa_token"]),
    tuple(MEDIA.values())[:5],
    None,
)

SCRIPTS = (
    Script("latin", ((0x61, 0x7A), (0x41, 0x5A)), 34),
    Script(
        "latin extended", ((0x61, 0x7A), (0xC0, 0x17F), (0x1A0, 0x1B0), (0x300, 0x36F), (0x1E00, 0x1EFF)), 10
    ),
    Script("punctuation", ((0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7E)), 2),
    Script("digits", ((0x30, 0x39),), 0),
    Script("cyrillic", ((0x430, 0x45F), (0x400, 0x42F), (0x460, 0x4FF)), 11),
    Script("greek", ((0x3B1, 0x3CE), (0x386, 0x3AB), (0x1F00, 0x1FFF)), 3),
    Script("armenian", ((0x561, 0x587), (0x531, 0x556)), 1),
    Script("hebrew", ((0x5D0, 0x5EA), (0x5B0, 0x5C4)), 2),
    Script("arabic", ((0x621, 0x652), (0x660, 0x6D3)), 5),
    Script("syriac", ((0x710, 0x72C),), 0.2),
    Script("devanagari", ((0x901, 0x96F),), 4),
    Script("bengali", ((0x981, 0x9FA),), 2),
    Script("gurmukhi", ((0xA01, 0xA74),), 1),
    Script("gujarati", ((0xA81, 0xAEF),), 1),
    Script("oriya", ((0xB01, 0xB70),), 0.5),
    Script("tamil", ((0xB82, 0xBF2),), 1.5),
    Script("telugu", ((0xC01, 0xC6F),), 1),
    Script("kannada", ((0xC82, 0xCEF),), 1),
    Script("malayalam", ((0xD02, 0xD6F),), 1),
    Script("sinhala", ((0xD82, 0xDF4),), 0.5),
    Script("thai", ((0xE01, 0xE5B),), 2),
    Script("lao", ((0xE81, 0xEDD),), 0.3),
    Script("tibetan", ((0xF00, 0xFCF),), 0.3),
    Script("myanmar", ((0x1000, 0x1059),), 0.5),
    Script("georgian", ((0x10D0, 0x10F8),), 1),
    Script("ethiopic", ((0x1200, 0x137C),), 0.5),
    Script("cherokee", ((0x13A0, 0x13F4),), 0.2),
    Script("khmer", ((0x1780, 0x17E9),), 0.5),
    Script("mongolian", ((0x1800, 0x18A9),), 0.2),
    Script("kana", ((0x3041, 0x3096), (0x30A1, 0x30FE)), 3),
    Script("hangul", ((0xAC00, 0xD7A3),), 4, most=2_500),
    Script("han", ((0x4E00, 0x9FA5),), 6),
    Script(
        "signs", ((0xA1, 0xBF), (0x2010, 0x2057), (0x2070, 0x2BFF), (0x3000, 0x303F), (0xFF01, 0xFF65)), 0.3
    ),
    Script("emoji", ((0x1F300, 0x1F64F), (0x1F680, 0x1F6C5), (0x1F910, 0x1F96B), (0xFE0F, 0xFE0F)), 0.2),
)


def write(path: Path, vocab_size: int, seed: int, names: Names = GEMMA_3) -> None:
    """Write a tokenizer.json to `path`: `vocab_size` entries, and the added token with the id past them.

    Raises ValueError when `vocab_size` leaves no room for pieces beside the fixed entries and characters.
    """
    vocabulary, merged = _vocabulary(vocab_size, seed, names)
    most = vocab_size * MERGES // ENTRIES
    merges = _without_spare(list(_merges(vocabulary, merged)), most)
    document = _document(vocabulary, merges) | {"added_tokens": added_tokens(vocab_size, names)}
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")


def added_tokens(vocab_size: int, names: Names) -> list[dict[str, Any]]:
    """The added tokens of a table of `vocab_size` entries in order of id."""
    leading, trailing = _leading(names), _trailing(vocab_size, names)
    ids = [*range(len(leading)), *range(vocab_size - len(trailing), vocab_size + 1)]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    past = [names.past] if names.past else []
    return [
        {"id": i, "content": token, **flags, "special": token in names.special}
        for i, token in zip(ids, [*leading, *trailing, *past], strict=False)
    ]


def media_ids(vocab_size: int) -> dict[str, int]:
    """The ids of `MEDIA` in the second model's table of `vocab_size` entries."""
    ids = {token["content"]: int(token["id"]) for token in added_tokens(vocab_size, GEMMA_4)}
    return {role: ids[token] for role, token in MEDIA.items()}


def _leading(names: Names) -> list[str]:
    """The added tokens at the table's head."""
    control = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "[multimodal]"]
    unused = [f"<unused{i}>" for i in range(LEADING_UNUSED)]
    newlines = ["\n" * n for n in range(1, LONGEST_RUN + 1)]
    spaces = [SPACE * n for n in range(2, LONGEST_RUN + 1)]
    tags = [f"<{tag}>" for tag in _TAGS] + [f"</{tag}>" for tag in _TAGS]
    head = [*control, *unused, "", ""]
    for i, token in names.leading.items():
        head[i] = token
    return [*head, *newlines, *spaces, *tags]


def _trailing(vocab_size: int, names: Names) -> list[str]:
    """The added tokens at its end."""
    tabs = ["\t" * n for n in range(1, LONGEST_RUN + 1)]
    unused = round(vocab_size * TRAILING_UNUSED / ENTRIES)
    reserved = [f"<unused{LEADING_UNUSED + i}>" for i in range(unused)]
    start = round(unused * MEDIA_AT / TRAILING_UNUSED)
    reserved[start : start + len(names.inside)] = names.inside
    return [*tabs, *names.borders, *reserved]


def _vocabulary(vocab_size: int, seed: int, names: Names) -> tuple[list[str], list[str]]:
    """All entries in order of id, and those among them that merges make, in order of rank."""
    rng = np.random.default_rng([seed, 1])
    fixed = _leading(names) + [f"<0x{byte:02X}>" for byte in range(256)]
    trailing = _trailing(vocab_size, names)
    # A small table takes a few characters of each script and leaves the rest to byte fallback.
    most = 45 if vocab_size < 65_536 else 14_000
    alphabets = [_alphabet(script, most, rng) for script in SCRIPTS]
    characters = list(dict.fromkeys([SPACE, *(char for alphabet in alphabets for char in alphabet)]))
    room = vocab_size - len(fixed) - len(characters) - len(trailing) - len(_ACROSS)
    if room < 500:
        raise ValueError(f"vocab_size {vocab_size} leaves {room} entries for pieces: take at least 4,096")
    pieces = [*_pieces(alphabets, room, rng), *_ACROSS]
    runs = [char * n for n in range(LONGEST_RUN, 1, -1) for char in ("\n", SPACE, "\t")]
    return [*fixed, *pieces, *characters, *trailing], [*runs, *pieces]


def _alphabet(script: Script, most: int, rng: np.random.Generator) -> list[str]:
    """The characters of a script, commonest first: earlier ranges, then chance.

    What is a character is asked of Unicode 3.2, the one database that every Python version agrees on.
    """
    if script.name == "latin":
        return [*_LATIN, *_LATIN.upper()]
    chars: list[str] = []
    for first, last in script.ranges:
        codes = (int(code) for code in first + rng.permutation(last + 1 - first))
        chars += [chr(c) for c in codes if c > 0xFFFF or unicodedata.ucd_3_2_0.category(chr(c)) != "Cn"]
    return chars[: min(most, script.most)]


def _pieces(alphabets: list[list[str]], room: int, rng: np.random.Generator) -> list[str]:
    """`room` pieces of two or more characters; the common ones of every script come early."""
    total = sum(script.share for script in SCRIPTS)
    taken = set(_ACROSS)
    ranked: list[tuple[float, str]] = []
    for script, alphabet in zip(SCRIPTS, alphabets, strict=True):
        quota = int(room * script.share / total)
        words = _WORDS.split() if script.name == "latin" else []
        made = _closure(alphabet, words, quota, taken, rng)
        ranked += [(i / quota, piece) for i, piece in enumerate(made)]
    made = _closure(alphabets[0], [], room - len(ranked), taken, rng)
    ranked.sort(key=lambda entry: entry[0])
    return [piece for _, piece in ranked] + made


def _closure(
    alphabet: list[str], words: list[str], quota: int, taken: set[str], rng: np.random.Generator
) -> list[str]:
    """`quota` new pieces, each two earlier ones joined; the earlier a piece, the likelier a part."""
    parts = [SPACE, *alphabet]
    made: list[str] = []

    def add(piece: str) -> None:
        if piece not in taken and len(made) < quota:
            taken.add(piece)
            parts.append(piece)
            made.append(piece)

    def grow(left: str, right: str) -> None:
        """Beginnings and endings first: as in a language, most pieces have several splits into others."""
        for end in range(1, len(right)):
            add(left + right[:end])
        for start in range(len(left) - 1, 0, -1):
            add(left[start:] + right)
        add(left + right)

    for word in words[: quota // 12]:
        for end in range(2, len(word) + 1):
            add(word[:end])
        add(SPACE + word)
    pairs = min(quota // 4, len(alphabet) ** 2 // 4)
    while len(made) < quota:
        reach = 1 + len(alphabet) if len(made) < pairs else len(parts)
        # A power of the draw makes early parts common, as they are in language.
        draws = (reach * rng.random((1024, 2)) ** 4).astype(int)
        for left, right in draws.tolist():
            if _joins(parts[left], parts[right]):
                grow(parts[left], parts[right])
    return made


def _joins(left: str, right: str) -> bool:
    """Whether these may make a piece: a space only begins one, a capital never follows a small letter."""
    return (
        len(left) + len(right) <= LONGEST_PIECE
        and not right.startswith(SPACE)
        and not (left[-1].islower() and right[0].isupper())
    )


def _merges(vocabulary: list[str], merged: list[str]) -> Iterator[tuple[str, str]]:
    """Every split of every piece into two entries, ranked by the piece, as SentencePiece tables convert."""
    ids = {piece: i for i, piece in enumerate(vocabulary)}
    for piece in merged:
        splits = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        known = [split for split in splits if split[0] in ids and split[1] in ids]
        yield from sorted(known, key=lambda split: (ids[split[0]], ids[split[1]]))


def _without_spare(merges: list[tuple[str, str]], most: int) -> list[tuple[str, str]]:
    """At most `most` merges: the last go, but for one of each piece whose parts are made before it."""
    rank: dict[str, int] = {}
    for i, (left, right) in enumerate(merges):
        rank.setdefault(left + right, i)
    needed: dict[str, int] = {}
    for i, (left, right) in enumerate(merges):
        if max(rank.get(left, -1), rank.get(right, -1)) < i:
            needed.setdefault(left + right, i)
    spare = [i for i, (left, right) in enumerate(merges) if needed.get(left + right, i) != i]
    gone = set(spare[len(spare) - max(0, len(merges) - most) :])
    return [merge for i, merge in enumerate(merges) if i not in gone]


def _document(vocabulary: list[str], merges: list[tuple[str, str]]) -> dict[str, Any]:
    """The file as the `tokenizers` library reads it, without the added tokens."""
    ids = {piece: i for i, piece in enumerate(vocabulary)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "post_processor": _template(ids),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": ids,
            "merges": [list(pair) for pair in merges],
        },
    }


def _template(ids: dict[str, int]) -> dict[str, Any]:
    """`<bos> text <eos>`, and the same twice for pairs."""

    def one(sequence: str, type_id: int) -> list[dict[str, Any]]:
        bos, eos = ({"SpecialToken": {"id": t, "type_id": type_id}} for t in ("<bos>", "<eos>"))
        return [bos, {"Sequence": {"id": sequence, "type_id": type_id}}, eos]

    return {
        "type": "TemplateProcessing",
        "single": one("A", 0),
        "pair": one("A", 0) + one("B", 1),
        "special_tokens": {t: {"id": t, "ids": [ids[t]], "tokens": [t]} for t in ("<bos>", "<eos>")},
    }
