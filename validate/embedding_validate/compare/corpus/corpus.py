"""The user's own texts: documents, or pairs of a query and a document that it should find."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from embedding_runtime.embed_text.files.option_files import records
from embedding_runtime.embed_text.files.records import Record
from embedding_runtime.errors import InputError

_LAYOUTS = (("query", "document"), ("text",))
# More queries than these say nothing new, and every one is scored against all documents.
MOST_QUERIES = 500


@dataclass(frozen=True)
class Corpus:
    """Documents, queries, and for each query the indices of the documents that belong to it.

    Without pairs, `relevant` is None and `queries` is empty: the first `MOST_QUERIES` documents are the
    queries, and search for their neighbours.
    """

    path: Path
    documents: tuple[str, ...]
    queries: tuple[str, ...] = ()
    relevant: tuple[frozenset[int], ...] | None = None

    @property
    def asked(self) -> tuple[str, ...]:
        """The texts that search: the queries, or the first documents."""
        return self.queries if self.relevant is not None else self.documents[:MOST_QUERIES]

    @property
    def candidates(self) -> int:
        """How many documents can answer a query; a document that searches for its neighbours does not
        count."""
        return len(self.documents) - (self.relevant is None)


def read(path: Path) -> Corpus:
    """Read a corpus: records with `text` or with `query` and `document`, in any format of `embed-text`; a
    `.tsv` may do without a header and has one column or two (query first); else one document per line.

    Raises:
        InputError: unreadable, not what its name says, a row that is neither, both kinds mixed, or too few
            documents.
    """
    rows = list(_pairs(path))
    if len({query is None for query, _ in rows}) > 1:
        raise InputError(f"Some rows of {path} have a query and some have none. Give every row one, or none.")
    corpus = _corpus(path, rows)
    if len(corpus.documents) < 3:
        raise InputError(f"{path} has {len(corpus.documents)} different documents; rankings need 3 at least.")
    return corpus


def _corpus(path: Path, rows: list[tuple[str | None, str]]) -> Corpus:
    """The corpus with every text once: repeated documents become one, and the pairs of a query are put
    together."""
    documents = {text: i for i, text in enumerate(dict.fromkeys(text for _, text in rows))}
    relevant: dict[str, set[int]] = {}
    for query, text in rows:
        if query is not None:
            relevant.setdefault(query, set()).add(documents[text])
    if not relevant:
        return Corpus(path, tuple(documents))
    items = list(relevant.items())[:MOST_QUERIES]
    queries, answers = zip(*items, strict=True)
    return Corpus(path, tuple(documents), queries, tuple(map(frozenset, answers)))


def _pairs(path: Path) -> Iterator[tuple[str | None, str]]:
    for record in records(path, "--corpus", _LAYOUTS):
        pair = _pair(record)
        if pair is None:
            if record.error:
                raise InputError(f"{path}, line {record.line} {record.error}.")
            raise InputError(
                f"{path}, line {record.line}: expected an object with `text`, or with `query` and "
                f"`document`; it is "
                f"{record.values!r:.60}."
            )
        yield pair


def _pair(record: Record) -> tuple[str | None, str] | None:
    """A query (or None) and a document; None if the row has neither."""
    values = record.values or {}
    query, text = (values.get(n) for n in (_LAYOUTS[0] if "query" in values else ("", "text")))
    if not isinstance(text, str) or ("query" in values and not isinstance(query, str)):
        return None
    return query, text
