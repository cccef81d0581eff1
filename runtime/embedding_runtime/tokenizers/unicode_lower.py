"""Lower case as in the `tokenizers` library: character by character, by a newer Unicode than Python's.

Of all characters only `İ` becomes two.
"""


def lower(text: str) -> str:
    """`text` in lower case; `Σ` is always `σ`, never the `ς` of a word's end."""
    lowered = text.replace("Σ", "σ").lower()
    return lowered if lowered.isascii() else lowered.translate(_SINCE_UNICODE_15)


# Letters of Unicode 15 to 17, which Python 3.11 to 3.14 know in part.
_SINCE_UNICODE_15 = {
    0x1C89: 0x1C8A,
    0xA7CB: 0x0264,
    0xA7CC: 0xA7CD,
    0xA7CE: 0xA7CF,
    0xA7D2: 0xA7D3,
    0xA7D4: 0xA7D5,
    0xA7DA: 0xA7DB,
    0xA7DC: 0x019B,
    **{capital: capital + 0x20 for capital in range(0x10D50, 0x10D66)},
    **{capital: capital + 0x1B for capital in range(0x16EA0, 0x16EB9)},
}
