"""Probe texts: the package's own (`texts.jsonl`, `passages.json`) and the user's."""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from embedding_runtime.embed_text.files.option_files import records, text_of
from embedding_runtime.embed_text.files.records import Record
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
    """The package's library: passages to search, and questions."""
    data = json.loads(PASSAGES.read_text(encoding="utf-8"))
    pairs = {
        part: tuple((item[first], item[second]) for item in data[part])
        for part, first, second in (("passages", "title", "text"), ("questions", "text", "title"))
    }
    return Library(pairs["passages"], pairs["questions"])


def read(path: Path) -> tuple[Text, ...]:
    """Read the user's texts, in any format that `embed-text` reads: records with `text` (and `id`, `script`),
    else one per line. Blank lines are skipped.

    Raises:
        InputError: the file is missing, unreadable, not what its name says, or has no text.
    """
    texts = tuple(_text(record, str(path)) for record in records(path, "--texts", (("text",),)))
    if not texts:
        raise InputError(f"The texts file {path} has no text. Put one text on each line.")
    return _distinct(texts, str(path))


def _parse_jsonl(data: str, where: str) -> tuple[Text, ...]:
    lines = [(n, line) for n, line in enumerate(data.split("\n"), 1) if line.strip()]
    return _distinct(tuple(_text(Record(n, json.loads(line)), where) for n, line in lines), where)


def _distinct(texts: tuple[Text, ...], where: str) -> tuple[Text, ...]:
    if len({t.id for t in texts}) != len(texts):
        raise InputError(f"{where} uses one id for several texts. Give each text an id of its own, or none.")
    return texts


def _text(record: Record, where: str) -> Text:
    text, fields = text_of(record, where), record.values or {}
    named = [fields.get("id", f"line-{record.line}"), fields.get("script", "User")]
    if not all(isinstance(f, str) for f in named):
        raise InputError(
            f'Line {record.line} of {where} is {fields!r:.60}. Expected an object such as {{"text": "..."}}; '
            "text, id and script are strings."
        )
    return Text(named[0], named[1], text)
