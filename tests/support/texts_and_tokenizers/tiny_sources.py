"""Packages in small, of the same layouts as the real ones, for tests of the training recipe."""

import json
import zipfile
from pathlib import Path

THINGS = ("apple", "banana", "car", "dog", "engine", "flower", "garden", "horse", "island", "jacket")
KINDS = ("fruit", "vehicle", "animal", "plant", "place")
ADJECTIVES = ("red", "small", "old", "quick", "heavy", "quiet")


def write_packages(raw: Path) -> None:
    """An archive for every source of the recipe, under `raw`."""
    _archive(
        raw, "wordnet", {"share/wordnet/data.noun": _wordnet(), "share/wordnet/noun.exc": "geese goose\n"}
    )
    _archive(raw, "cldr", {"common/annotations/en.xml": _cldr()})
    _archive(raw, "factbook", {"europe/fr.json": json.dumps(_country())})
    turns = "\n".join(f"- - Where is the {t}?\n  - The {t} is in the old garden." for t in THINGS)
    _archive(raw, "chatterbot", {"x/data/english/food.yml": f"conversations:\n{turns}\n"})
    for name, path in _DOCUMENTED.items():
        _archive(raw, name, {path.format(i): _page(name, i) for i in range(12)})


_DOCUMENTED = {
    "python": "doc/html/p{}.html",
    "postgresql": "doc/html/p{}.html",
    "sqlite": "doc/p{}.html",
    "apache": "doc/manual/en/p{}.html",
    "django": "doc/p{}.html",
    "sqlalchemy": "doc/p{}.html",
    "flask": "doc/p{}.html",
    "node": "doc/api/p{}.html",
    "rust": "doc/html/book/p{}.html",
}


def _archive(raw: Path, name: str, files: dict[str, str]) -> None:
    folder = raw / name
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as zipped:
        for path, content in files.items():
            zipped.writestr(path, content)


def _wordnet() -> str:
    """300 synsets: kinds, things that are of a kind, and their definitions with examples."""
    lines = ["  1 a licence, which is no data"]
    for i in range(300):
        thing, kind = THINGS[i % len(THINGS)], KINDS[i % len(KINDS)]
        lemmas = f"{thing}_{i} 0 {kind}_thing_{i} 0 {ADJECTIVES[i % 6]} 0"
        pointers = f"@ {(i % 5) + 1000:08d} n 0000 + {i + 999:08d} n 0101 ;c {i % 7 + 1000:08d} n 0000"
        above = f"003 {pointers}" if i >= 5 else "000"
        adjective = ADJECTIVES[i % 6]
        gloss = f"a {adjective} {kind} number {i} that looks like a {thing}"
        example = f'"the {thing} {i} is very {adjective}"'
        lines.append(f"{i + 1000:08d} 05 n 03 {lemmas} {above} | {gloss}; {example}")
    return "\n".join(lines) + "\n"


def _cldr() -> str:
    rows = "".join(
        f'<annotation cp="{chr(0x1F34E + i)}">{t} | food</annotation>'
        f'<annotation cp="{chr(0x1F34E + i)}" type="tts">{t} sign</annotation>'
        for i, t in enumerate(THINGS)
    )
    return f"<ldml><annotations>{rows}</annotations></ldml>"


def _country() -> dict[str, object]:
    name = {"conventional short form": {"text": "France"}}
    topics = {f"Topic {t}": {"text": f"The country has many a {t} in its old towns."} for t in THINGS}
    return {"Government": {"Country name": name}, "Economy": topics}


def _page(name: str, i: int) -> str:
    sections = "".join(
        f"<h2>About the {a} {t} {i}</h2><p>The {a} {t} of {name} number {i} stands in the garden. "
        f"It was put there by people who like every {t} they see.</p><pre>code_{t}()</pre>"
        for a, t in zip(ADJECTIVES, THINGS, strict=False)
    )
    return f"<html><h1>Guide {i} of {name}</h1>{sections}</html>"
