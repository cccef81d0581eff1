"""Probe texts: the package's own (`texts.jsonl`, `passages.json`) and the user's.

Knows nothing of tokens or models.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from embedding_runtime.errors import InputError

TEXTS, PASSAGES = (resources.files(__package__) / name for name in ("texts.jsonl", "passages.json"))


@dataclass(frozen=True)
class Text:
    """One probe text; `script` is the class that reports group by (a writing system, or e.g. "Code")."""

    id: str
    script: str
    text: str


@dataclass(frozen=True)
class Library:
    """Passages as (title, text), and questions as (text, title of the answer)."""

    passages: tuple[tuple[str, str], ...]
    questions: tuple[tuple[str, str], ...]


def packaged() -> tuple[Text, ...]:
    """The texts of the package, written for it: scripts, code, emoji, whitespace, control tokens."""
    return _parse_jsonl(TEXTS.read_text(encoding="utf-8"), TEXTS.name)


@cache
def library() -> Library:
    """The package's library: what is searched, and what is asked."""
    data = json.loads(PASSAGES.read_text(encoding="utf-8"))
    pairs = {
        part: tuple((item[first], item[second]) for item in data[part])
        for part, first, second in (("passages", "title", "text"), ("questions", "text", "title"))
    }
    return Library(pairs["passages"], pairs["questions"])


def read(path: Path) -> tuple[Text, ...]:
    """Read the user's texts: `.jsonl` has objects with `text` (and `id`, `script`), else one per line.

    Blank lines of a plain file are skipped; only a newline ends a line.

    Raises:
        InputError: the file is missing, unreadable, not UTF-8, not what its name says, or has no text.
    """
    data = utf8(path, "--texts")
    texts = _parse_jsonl(data, str(path)) if path.suffix == ".jsonl" else _parse_lines(data)
    if not texts:
        raise InputError(f"The texts file {path} has no text. Put one text on each line.")
    return texts


def utf8(path: Path, option: str) -> str:
    """What is in a file that the user has named with an option, without a byte order mark.

    Raises:
        InputError: the file is missing, unreadable or not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as e:
        raise InputError(f"The file {path} cannot be read ({e}). Check the path of {option}.") from e
    except UnicodeDecodeError as e:
        raise InputError(
            f"The file {path} of {option} is not UTF-8: {e.reason} at byte {e.start}. Save it as UTF-8."
        ) from e


def _parse_lines(data: str) -> tuple[Text, ...]:
    lines = [(n, line.removesuffix("\r")) for n, line in enumerate(data.split("\n"), 1)]
    return tuple(Text(f"line-{n}", "User", line) for n, line in lines if line.strip())


def _parse_jsonl(data: str, where: str) -> tuple[Text, ...]:
    lines = [(n, line) for n, line in enumerate(data.split("\n"), 1) if line.strip()]
    texts = tuple(_parse_object(line, n, where) for n, line in lines)
    if len({t.id for t in texts}) != len(texts):
        raise InputError(f"{where} uses one id for several texts. Give each text an id of its own, or none.")
    return texts


def _parse_object(line: str, number: int, where: str) -> Text:
    try:
        value: Any = json.loads(line)
    except ValueError as e:
        raise InputError(f"Line {number} of {where} is not JSON ({e}). Expected an object with text.") from e
    fields = value if isinstance(value, dict) else {}
    found: list[Any] = [fields.get("id", f"line-{number}"), fields.get("script", "User"), fields.get("text")]
    if not all(isinstance(f, str) for f in found):
        raise InputError(
            f'Line {number} of {where} is {line[:60]!r}. Expected an object such as {{"text": "..."}}; '
            "text, id and script are strings."
        )
    text = Text(*found)
    if any("\ud800" <= c <= "\udfff" for c in text.text):
        raise InputError(f"Line {number} of {where} holds a lone surrogate, which is no text. Remove it.")
    return text
