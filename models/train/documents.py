"""Documentation in HTML → sections of prose → pairs; knows no package by name."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise

from train.pairs import Found, Pair
from train.sources import Package
from train.text import clean, sentences, words

_SKIPPED = {"script", "style", "pre", "nav", "table", "footer", "header", "svg", "button"}
_HEADINGS = {"h1", "h2", "h3", "h4"}
_BLOCKS = {"p", "li", "dd", "dt", "div", "section", "blockquote", "td"}
_BODY_WORDS = 48


@dataclass
class Section:
    """A heading and the paragraphs under it, `page` telling the document."""

    page: str
    title: str
    heading: str
    paragraphs: list[str] = field(default_factory=list)


class _Reader(HTMLParser):
    """Collects headings and paragraphs; text in skipped elements is left out."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.page, self.sections = page, [Section(page, "", "")]
        self.skipping = 0
        self.heading = False
        self.buffer: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SKIPPED:
            self.skipping += 1
        elif tag in _HEADINGS or tag in _BLOCKS:
            self._flush()
            self.heading = tag in _HEADINGS

    def handle_endtag(self, tag: str) -> None:
        if tag in _SKIPPED:
            self.skipping = max(0, self.skipping - 1)
        elif tag in _HEADINGS or tag in _BLOCKS:
            self._flush()
            self.heading = False

    def handle_data(self, data: str) -> None:
        if not self.skipping:
            self.buffer.append(data)

    def _flush(self) -> None:
        text = clean("".join(self.buffer))
        self.buffer = []
        if self.heading and text:
            title = self.sections[0].title or text
            self.sections[0].title = title
            self.sections.append(Section(self.page, title, text.lstrip("0123456789. ")))
        elif text and sentences(text):
            self.sections[-1].paragraphs.append(text)


def read(package: Package) -> Iterator[list[Section]]:
    """The sections of each page that has prose in it."""
    for name, content in package.files():
        reader = _Reader(f"{package.source.name}/{name}")
        reader.feed(content.decode("utf-8", errors="replace"))
        reader.close()
        if found := [s for s in reader.sections if s.paragraphs]:
            yield found


def headings(pages: list[list[Section]], seed: int) -> Iterator[Found]:
    """A heading (with the page's title) and what stands under it; negatives come from the same page."""
    rng = random.Random(seed)
    for page in pages:
        titled = [s for s in page if s.heading and len(words(s.heading)) > 1]
        for section in titled:
            others = [s for s in page if s is not section]
            negative = _body(rng.choice(others).paragraphs) if others else ""
            left = section.heading
            if section.title not in ("", section.heading) and rng.random() < 0.5:
                left = f"{section.title}: {section.heading}"
            yield Found(section.page, Pair(left, _body(section.paragraphs), negative))


def neighbours(pages: list[list[Section]]) -> Iterator[Found]:
    """Two sentences that follow each other in a paragraph."""
    for section in (s for page in pages for s in page):
        for paragraph in section.paragraphs:
            found = sentences(paragraph)
            yield from (Found(section.page, Pair(a, b)) for a, b in pairwise(found))


def prose(pages: list[list[Section]]) -> Iterator[tuple[str, str]]:
    """(page, sentence) of everything."""
    for section in (s for page in pages for s in page):
        for paragraph in section.paragraphs:
            yield from ((section.page, sentence) for sentence in sentences(paragraph))


def _body(paragraphs: list[str]) -> str:
    """The beginning of a section: whole sentences, about 48 words."""
    chosen: list[str] = []
    for sentence in (s for p in paragraphs for s in sentences(p)):
        chosen.append(sentence)
        if sum(len(words(s)) for s in chosen) >= _BODY_WORDS:
            break
    return " ".join(chosen)
