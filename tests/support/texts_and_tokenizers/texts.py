"""Seeded texts of many scripts and kinds, for comparing tokenizers id by id.

Knows nothing of tokenizers: the texts are chosen for what trips them, not for what any one of them holds.
"""

import random
import unicodedata
from collections.abc import Callable

# Letters, or the first and last code point of a range.
_ALPHABETS: dict[str, str | tuple[int, int]] = {
    "latin": "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "accents": "aàáâãäåæeèéêëiìíîïoòóôõöøuùúûüñçßşğıłżźśćńőűăâîșțđơưạảấầẩẫậắằẳẵặ",
    "cyrillic": (0x410, 0x44F),
    "ukrainian": "абвгґдеєжзиіїйклмнопрстуфхцчшщьюя",
    "greek": (0x391, 0x3C9),
    "armenian": (0x561, 0x586),
    "hebrew": (0x5D0, 0x5EA),
    "arabic": (0x621, 0x652),
    "persian": "ابپتثجچحخدذرزژسشصضطظعغفقکگلمنوهی\u200c",
    "devanagari": (0x905, 0x94D),
    "bengali": (0x985, 0x9CD),
    "gurmukhi": (0xA05, 0xA4D),
    "gujarati": (0xA85, 0xACD),
    "tamil": (0xB85, 0xBCD),
    "telugu": (0xC05, 0xC4D),
    "kannada": (0xC85, 0xCCD),
    "malayalam": (0xD05, 0xD4D),
    "sinhala": (0xD85, 0xDCA),
    "thai": (0xE01, 0xE4E),
    "lao": (0xE81, 0xECD),
    "tibetan": (0xF40, 0xFBC),
    "burmese": (0x1000, 0x103F),
    "georgian": (0x10D0, 0x10F0),
    "ethiopic": (0x1200, 0x135A),
    "khmer": (0x1780, 0x17D2),
    "mongolian": (0x1820, 0x1878),
    "hiragana": (0x3041, 0x3096),
    "katakana": (0x30A1, 0x30FA),
    "hangul": (0xAC00, 0xD7A3),
    "han": (0x4E00, 0x9FA5),
    "rare han": (0x20000, 0x2A6DF),
    "gothic": (0x10330, 0x1034A),
    "mathematical": (0x1D400, 0x1D7FF),
    "emoji": (0x1F300, 0x1F64F),
    "signs": (0x2190, 0x2BFF),
    "private use": (0xE000, 0xE0FF),
}
_ENGLISH = (
    "the quick brown fox jumps over a lazy dog while planets such as Mars and Venus orbit the sun, "
    "and every query returns some documents about embedding models, search results or classification"
)
_CODE = (
    "def encode(texts: list[str]) -> np.ndarray:\n    return model(texts)[:, 0]",
    "for (int i = 0; i < n; ++i) { sum += a[i] * b[i]; }",
    "SELECT name, COUNT(*) FROM users WHERE id >= 42 AND note != '' GROUP BY 1;",
    '<div class="x"><p>Hello,&nbsp;<b>world</b>!</p></div>\n\t<!-- comment -->',
    "curl -s https://example.org/a?b=c&d=%20e | jq '.items[] | {id, name}'",
    '#include <stdio.h>\nint main(void) { return printf("%d\\n", 0x7fffffff); }',
    '{"key": [1, 2.5e-3, null, true], "nested": {"\\u00e9": "é"}}',
    "\\begin{equation} \\frac{\\partial f}{\\partial x} = \\sum_{i=0}^{n} x_i^2 \\end{equation}",
)
_CONTROL_TOKENS = (
    "<bos> <eos> <pad> <unk> <mask> [multimodal] <unused0> <unused98> <start_of_turn> <end_of_turn> "
    "<0x41> <0xE2> <h1> </h1> <br> </code> <bos <BOS> <|endoftext|> < bos >"
)
_SEQUENCES = (
    "👩‍👩‍👧‍👦",
    "👍🏽",
    "🇩🇪🇫🇷",
    "🏳️‍🌈",
    "1️⃣",
    "☺️",
    "e\u0301\u0323",
    "क्ष्म",
    "ﷺ",
    "ﬁ",
    "İi̇",
    "\u202eabc\u202c",
)
_BLANKS = (
    " ",
    "  ",
    "\t",
    "\n",
    "\r\n",
    "\u00a0",
    "\u2003",
    "\u3000",
    "\u200b",
    "\ufeff",
    "▁",
    "\v",
    "\f",
    "\u2028",
)


def lines(count: int = 5_000, seed: int = 0) -> list[str]:
    """`count` texts, the same for the same seed; some hold line breaks, none a lone surrogate."""
    rng = random.Random(seed)
    kinds = (
        _words,
        _words,
        _words,
        _mixed,
        _english,
        _code,
        _blank_runs,
        _controls,
        _forms,
        _any,
        _long,
        _tokens,
    )
    edges = [
        "",
        " ",
        "\n",
        "▁",
        "\0",
        "a",
        "é",
        "<bos>",
        " a",
        "a ",
        "\n" * 40,
        " " * 70,
        "▁" * 40,
        "日" * 300,
    ]
    return (edges + [kinds[i % len(kinds)](rng) for i in range(count)])[:count]


def scripts() -> tuple[str, ...]:
    """Names of the alphabets that the texts draw on."""
    return tuple(_ALPHABETS)


def _letters(rng: random.Random, script: str, length: int) -> str:
    alphabet = _ALPHABETS[script]
    if isinstance(alphabet, str):
        return "".join(rng.choices(alphabet, k=length))
    first, last = alphabet
    return "".join(chr(rng.randint(first, last)) for _ in range(length))


def _words(rng: random.Random, script: str | None = None) -> str:
    script = script or rng.choice(scripts())
    words = (_letters(rng, script, rng.randint(1, 9)) for _ in range(rng.randint(1, 12)))
    return rng.choice((" ", " ", " ", "", ", ", " - ")).join(words) + rng.choice(
        ("", ".", "?", "!", "…", "。")
    )


def _mixed(rng: random.Random) -> str:
    parts: list[Callable[[random.Random], str]] = [_words, _english, _digits, _sequence]
    return rng.choice(("", " ")).join(rng.choice(parts)(rng) for _ in range(rng.randint(2, 5)))


def _english(rng: random.Random) -> str:
    words = rng.choices(_ENGLISH.split(), k=rng.randint(1, 20))
    change = rng.choice((str, str, str.upper, str.title, str.swapcase))
    return change(" ".join(words))


def _digits(rng: random.Random) -> str:
    return rng.choice(("{}", "-{}.5", "{:,}", "0x{:x}", "${}", "{}%", "٣٤{}")).format(rng.randint(0, 10**9))


def _sequence(rng: random.Random) -> str:
    return rng.choice(_SEQUENCES)


def _code(rng: random.Random) -> str:
    text = rng.choice(_CODE)
    start = rng.randint(0, len(text) // 2)
    return text[start:] if rng.random() < 0.5 else text.replace(" ", " " * rng.randint(1, 9))


def _blank_runs(rng: random.Random) -> str:
    parts = (
        rng.choice(_BLANKS) * rng.choice((1, 2, 3, 30, 31, 32, 33, 65)) for _ in range(rng.randint(1, 5))
    )
    return "".join(part + rng.choice(("", "x", "word", "字")) for part in parts)


def _controls(rng: random.Random) -> str:
    codes = rng.choices([*range(0x20), *range(0x7F, 0xA0), 0xAD, 0x200D, 0xFFFD, 0xFFFF, 0x10FFFF], k=8)
    return rng.choice(("", "text", " ")).join(map(chr, codes))


def _forms(rng: random.Random) -> str:
    text = " ".join(_letters(rng, rng.choice(("accents", "hangul", "devanagari")), 6) for _ in range(4))
    return unicodedata.normalize(rng.choice(("NFC", "NFD", "NFKC", "NFKD")), text)


def _any(rng: random.Random) -> str:
    codes = (rng.choice((rng.randint(0, 0xD7FF), rng.randint(0xE000, 0x10FFFF))) for _ in range(20))
    return "".join(map(chr, codes))


def _long(rng: random.Random) -> str:
    unit = _letters(rng, rng.choice(scripts()), rng.randint(1, 3))
    return unit * rng.randint(20, 120)


def _tokens(rng: random.Random) -> str:
    words = rng.choices(_CONTROL_TOKENS.split() + _ENGLISH.split(), k=8)
    return rng.choice(("", " ")).join(words)
