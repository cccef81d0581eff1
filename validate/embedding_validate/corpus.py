"""The user's own texts: documents, or pairs of a query and a document it should find. Embeds nothing."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedding_runtime.errors import InputError
from embedding_validate.texts import utf8

# More queries than these say nothing new, and every one is scored against all documents.
MOST_QUERIES = 500


@dataclass(frozen=True)
class Corpus:
    """Documents, queries, and for each query the indices of the documents that belong to it.

    Without pairs `relevant` is None, and the first `MOST_QUERIES` documents ask for their neighbours: then
    `queries` is empty.
    """

    path: Path
    documents: tuple[str, ...]
    queries: tuple[str, ...] = ()
    relevant: tuple[frozenset[int], ...] | None = None

    @property
    def asked(self) -> tuple[str, ...]:
        """The texts that ask: the queries, or the first documents."""
        return self.queries if self.relevant is not None else self.documents[:MOST_QUERIES]

    @property
    def candidates(self) -> int:
        """How many documents can answer a text that asks; one that asks for its neighbours is none."""
        return len(self.documents) - (self.relevant is None)


def read(path: Path) -> Corpus:
    """Read a corpus: `.jsonl` with `text` or with `query` and `document`, `.tsv` with one column or two
    (query first), or anything else with one document per line.

    Raises:
        InputError: unreadable, not UTF-8, not what its name says, both kinds mixed, or too few documents.
    """
    data = utf8(path, "--corpus")
    parse = {".jsonl": _jsonl, ".tsv": _tsv}.get(path.suffix.lower(), _lines)
    rows = list(parse(data, path))
    if len({query is None for query, _ in rows}) > 1:
        raise InputError(f"Some rows of {path} have a query and some have none. Give every row one, or none.")
    found = _corpus(path, rows)
    if len(found.documents) < 3:
        raise InputError(f"{path} has {len(found.documents)} different documents; rankings need 3 at least.")
    return found


def _corpus(path: Path, rows: list[tuple[str | None, str]]) -> Corpus:
    """Every text once; what was said twice is one document, a query's pairs are put together."""
    documents = {text: i for i, text in enumerate(dict.fromkeys(text for _, text in rows))}
    relevant: dict[str, set[int]] = {}
    for query, text in rows:
        if query is not None:
            relevant.setdefault(query, set()).add(documents[text])
    if not relevant:
        return Corpus(path, tuple(documents))
    chosen = list(relevant.items())[:MOST_QUERIES]
    queries, wanted = zip(*chosen, strict=True)
    return Corpus(path, tuple(documents), queries, tuple(map(frozenset, wanted)))


def _lines(data: str, _: Path) -> Iterator[tuple[str | None, str]]:
    yield from ((None, line) for line in data.splitlines() if line.strip())


def _tsv(data: str, path: Path) -> Iterator[tuple[str | None, str]]:
    for n, row in enumerate(csv.reader(io.StringIO(data), delimiter="\t", quoting=csv.QUOTE_NONE), 1):
        if len(row) > 2:
            raise InputError(
                f"{path}, line {n}: {len(row)} columns; expected a document, or query and document."
            )
        if row:
            yield (row[0], row[1]) if len(row) == 2 else (None, row[0])


def _jsonl(data: str, path: Path) -> Iterator[tuple[str | None, str]]:
    for n, line in enumerate(data.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield _pair(json.loads(line))
        except (ValueError, KeyError, TypeError) as e:
            raise InputError(
                f"{path}, line {n}: expected an object with `text`, or with `query` and `document`."
            ) from e


def _pair(found: Any) -> tuple[str | None, str]:
    pair = (found["query"], found["document"]) if "query" in found else (None, found["text"])
    if not all(part is None or isinstance(part, str) for part in pair):
        raise TypeError
    return pair
