"""Plain text: cleaning, sentences, words; knows nothing of sources or pairs."""

import re
import unicodedata

_QUOTES = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "\u00a0": " ", "\u00ad": None, "¶": None})
_SPACES = re.compile(r"\s+")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]?\s+(?=[\"'(\[]?[A-Z0-9])")
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_LETTERS = re.compile(r"[^\W\d_]")

FEWEST_WORDS = 4
MOST_WORDS = 60


def clean(text: str) -> str:
    """One line of composed Unicode (NFC), straight quotes and single spaces."""
    return _SPACES.sub(" ", unicodedata.normalize("NFC", text).translate(_QUOTES)).strip()


def words(text: str) -> list[str]:
    """The words in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def sentences(paragraph: str) -> list[str]:
    """The sentences of a cleaned paragraph that read like prose."""
    return [s for s in _SENTENCE_END.split(paragraph) if is_prose(s)]


def is_prose(text: str) -> bool:
    """Whether the text has 4 to 60 words and is mostly letters, as code and tables are not."""
    count = len(words(text))
    letters = len(_LETTERS.findall(text))
    return FEWEST_WORDS <= count <= MOST_WORDS and letters >= 0.72 * len(text.replace(" ", ""))
