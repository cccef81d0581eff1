"""The probes for bundle and reference: texts, prompts, titles, lengths and batches.

Token counts come from a function that the caller passes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from embedding_export.composing import held_out_texts
from embedding_runtime.bundle import Graph
from embedding_validate.probes.lengths import Count, compose
from embedding_validate.probes.texts import Text, library

Verb = Literal["encode", "encode_query", "encode_document"]

# Texts of the short set besides lengths and prompts: few, and each from another corner.
_SHORT = (
    "en-short",
    "de",
    "zh-hans",
    "ar",
    "hi",
    "code-python",
    "emoji-zwj",
    "many-spaces",
    "nul",
    "token-pad",
)
# Of mixed lengths, so that each is padded when it runs with the others.
_BATCH = ("en-short", "empty", "en-question", "ja", "code-sql", "en-long", "emoji-zwj", "repeat-letter")
_PROMPTED = ("en-question", "en-orchard", "th")
_TITLES = ("Plums", "Brücken — 橋, мосты")
TITLE_SLOT = "title: none"
# Where chunked attention begins (past 512), and around full chunks of 128.
_CHUNK_EDGES = (511, 512, 513, 639, 640, 641, 1023, 1024, 1025)
_SHORT_CHUNK = 600
# Texts that overflow into chunks run with max_seq_length lowered to this, and are a few times as long.
_OVERFLOW_LIMIT, _OVERFLOW_TOKENS = 64, 200
# The class of texts that a composed graph is judged by.
HELD_OUT = "Held out"
_UNSPACED = ("Han", "Japanese", "Thai", "Khmer")


@dataclass(frozen=True)
class Probe:
    """One call: `verb` of the public API on one text.

    `prompt_name` None leaves the choice to the verb (no prompt for `encode`, unless the checkpoint has a
    default one); `title` is for `encode_document` only. If `chunked_at` is set, the text runs with
    `overflow="chunk"`, in pieces of at most that many tokens.
    """

    id: str
    script: str
    text: str
    verb: Verb = "encode"
    prompt_name: str | None = None
    title: str | None = None
    allow_special: bool = False
    chunked_at: int | None = None


@dataclass(frozen=True)
class ProbeSet:
    """Probes to run alone, groups of their ids to run as batches, and ids to run at every dim."""

    name: str
    probes: tuple[Probe, ...]
    batches: tuple[tuple[str, ...], ...]
    dims: tuple[str, ...]

    def __getitem__(self, id: str) -> Probe:
        """The probe of an id.

        Raises:
            KeyError: there is none.
        """
        return self._by_id[id]

    @cached_property
    def _by_id(self) -> dict[str, Probe]:
        return {p.id: p for p in self.probes}


@dataclass(frozen=True)
class Limits:
    """The limits that probes must straddle: `window` is the largest |i - j| of local layers (None: there are
    none).

    `buckets` are the fixed lengths that graphs run at, `added` the tokens that the checkpoint's owner added;
    `held_out` adds the texts that show whether a graph holds the cosine it was composed for.
    """

    window: int | None
    max_seq_length: int
    buckets: tuple[int, ...] = ()
    added: tuple[str, ...] = ()
    held_out: bool = False


def buckets(graphs: Iterable[Graph]) -> tuple[int, ...]:
    """The fixed lengths of some graphs, ascending."""
    return tuple(sorted({size for graph in graphs for size in graph.buckets}))


def composed(graphs: Iterable[Graph]) -> bool:
    """Whether a graph was composed for a target cosine."""
    return any(graph.composition for graph in graphs)


def short(texts: Sequence[Text], prompts: Mapping[str, str], limits: Limits, count: Count) -> ProbeSet:
    """The exporter's gate: about 40 probes, two of them as long as the model allows."""
    m, past_window = limits.max_seq_length, f"length-{(limits.window or 0) + 2}"
    sizes = [3, 16, *_window_edges(limits, (1,)), _SHORT_CHUNK, m, m + 52, *_bucket_edges(limits)]
    probes = [
        *map(_plain, _select(texts, _SHORT + _BATCH[:3])),
        *_special(texts)[:2],
        *_added(limits)[:2],
        *_lengths(texts, sizes, limits, count),
        *_prompts(texts, prompts, _PROMPTED[:1]),
        *_chunked(texts, prompts, limits, count)[:2],
        *_held_out(prompts, limits, count),
    ]
    batches = ((*_BATCH[:3], past_window), ("zh-hans", "ar", "token-pad", "emoji-zwj"))
    return _probe_set("short", probes, batches, _BATCH[2:3])


def full(texts: Sequence[Text], prompts: Mapping[str, str], limits: Limits, count: Count) -> ProbeSet:
    """`validate-embedding`: every text, every prompt on several texts, a library to search, all edges,
    batches to the maximum."""
    m, past_window = limits.max_seq_length, f"length-{(limits.window or 0) + 2}"
    sizes = [3, 4, 16, 64, *_window_edges(limits, (1, 2, 4)), *_CHUNK_EDGES, _SHORT_CHUNK]
    sizes += [*_bucket_edges(limits), *(b + 1 for b in limits.buckets if b < m)]
    probes = [
        *map(_plain, texts),
        *_special(texts),
        *_added(limits),
        *_lengths(texts, [*sizes, m - 2, m - 1, m, m + 1, m + 2, m + 500], limits, count),
        *_prompts(texts, prompts, _PROMPTED),
        *_retrieval(prompts),
        *_chunked(texts, prompts, limits, count),
        *_held_out(prompts, limits, count),
    ]
    if longest := next((p for p in probes if p.id == f"length-{m + 500}"), None):
        probes.append(replace(longest, id=f"chunks-{m}", script="Chunks", chunked_at=m))
    batches = (
        _BATCH,
        ("length-3", past_window, "zh-hans", f"length-{_SHORT_CHUNK}"),
        ("en-question", f"length-{m}"),
        tuple(t.id for t in texts if t.script in ("Control tokens", "Whitespace")),
    )
    return _probe_set("full", probes, batches, (*_BATCH[2:5], past_window))


def of_texts(texts: Sequence[Text], prompts: Mapping[str, str]) -> ProbeSet:
    """The user's own texts: alone, as queries, as documents, and in batches of eight."""
    plain = [_plain(t) for t in texts]
    queries = [Probe(f"{t.id}/query", t.script, t.text, "encode_query") for t in texts if "query" in prompts]
    documents = [
        Probe(f"{t.id}/document", t.script, t.text, "encode_document") for t in texts if "document" in prompts
    ]
    ids = [t.id for t in texts]
    batches = tuple(tuple(ids[i : i + 8]) for i in range(0, len(ids), 8))
    return ProbeSet("texts", (*plain, *queries, *documents), batches, tuple(ids[:3]))


def _probe_set(
    name: str, probes: Sequence[Probe], batches: Iterable[Sequence[str]], dims: Iterable[str]
) -> ProbeSet:
    """A set whose batches and dims leave out lengths that this model or its tokenizer does not have."""
    ids = {p.id for p in probes}
    own_batches = [tuple(i for i in batch if i in ids) for batch in batches]
    return ProbeSet(
        name, tuple(probes), tuple(b for b in own_batches if len(b) > 1), tuple(i for i in dims if i in ids)
    )


def _plain(text: Text) -> Probe:
    return Probe(text.id, text.script, text.text)


def _select(texts: Sequence[Text], ids: Iterable[str]) -> list[Text]:
    by_id = {t.id: t for t in texts}
    return [by_id[i] for i in dict.fromkeys(ids)]


def _special(texts: Sequence[Text]) -> list[Probe]:
    """Literal control tokens once more, read as control tokens, as the reference does by default."""
    control = [t for t in texts if t.script == "Control tokens"]
    return [Probe(f"{t.id}/special", t.script, t.text, allow_special=True) for t in control]


def _added(limits: Limits) -> list[Probe]:
    """Tokens that the checkpoint's owner added, between words and within one; as a text, as a query, as a
    document."""
    if not limits.added:
        return []
    marks = [*limits.added[:2], *limits.added[-2:]]
    text = " ".join(f"{mark} word {i} of{mark}many" for i, mark in enumerate(dict.fromkeys(marks)))
    plain = Probe("added-tokens", "Added tokens", text)
    query = replace(plain, id=f"{plain.id}/query", verb="encode_query")
    return [plain, query, replace(plain, id=f"{plain.id}/document", verb="encode_document")]


def _window_edges(limits: Limits, multiples: Sequence[int]) -> list[int]:
    """Lengths one below, at and one above each multiple of the window, and 2 past the first: there a pair of
    tokens drops out."""
    if limits.window is None:
        return []
    w = limits.window
    return [w + 2, *(m * w + d for m in multiples for d in (-1, 0, 1))]


def _bucket_edges(limits: Limits) -> list[int]:
    """The full and half length of each bucket."""
    return [n for b in limits.buckets for n in (b // 2, b)]


def _lengths(texts: Sequence[Text], lengths: Iterable[int], limits: Limits, count: Count) -> list[Probe]:
    """Texts of the given lengths; those past the maximum test truncation. A probe's id holds the length that
    its text reached."""
    pieces = _pieces(texts)
    m, shortest = limits.max_seq_length, count("")
    sizes = sorted({n for n in lengths if n >= shortest})
    truncating = [n for n in sizes if n > m]
    composed = [compose(pieces, n, count) for n in sizes if n <= m or n in truncating[-3:]]
    by_length = {count(text): text for text in composed}
    return [Probe(f"length-{n}", "Length", text) for n, text in by_length.items()]


def _prompts(texts: Sequence[Text], prompts: Mapping[str, str], ids: Sequence[str]) -> list[Probe]:
    """Every prompt by name, both verbs, and titles if the document prompt has a place for one."""
    probes = []
    for t in _select(texts, ids):
        probes += [Probe(f"{t.id}/prompt {n}", t.script, t.text, prompt_name=n) for n in prompts]
        probes.append(Probe(f"{t.id}/query", t.script, t.text, "encode_query"))
        probes.append(Probe(f"{t.id}/document", t.script, t.text, "encode_document"))
        if TITLE_SLOT in prompts.get("document", ""):
            probes += [
                Probe(f"{t.id}/title {i}", t.script, t.text, "encode_document", title=title)
                for i, title in enumerate(_TITLES)
            ]
    return probes


def _retrieval(prompts: Mapping[str, str]) -> list[Probe]:
    """The library's questions as queries, and its passages as documents, every second one with its title."""
    search = library()
    titled = TITLE_SLOT in prompts.get("document", "")
    queries = [
        Probe(f"question-{n}", "Library", text, "encode_query")
        for n, (text, _) in enumerate(search.questions)
    ]
    documents = [
        Probe(f"passage-{n}", "Library", text, "encode_document", title=title if titled and n % 2 else None)
        for n, (title, text) in enumerate(search.passages)
    ]
    return [*queries, *documents]


def _chunked(texts: Sequence[Text], prompts: Mapping[str, str], limits: Limits, count: Count) -> list[Probe]:
    """Texts longer than a lowered maximum: as a query, plain, with a title, and without spaces to cut at."""
    wide = max((count(p) for p in prompts.values()), default=0)
    at = min(limits.max_seq_length, max(_OVERFLOW_LIMIT, 3 * wide))
    words = compose(_pieces(texts), max(_OVERFLOW_TOKENS, 3 * at), count)
    unspaced = "".join(t.text.replace(" ", "") for t in texts if t.script in _UNSPACED)
    plain = Probe(f"chunks-{at}", "Chunks", words, chunked_at=at)
    probes = [replace(plain, id=f"{plain.id}/query", verb="encode_query"), plain]
    if TITLE_SLOT in prompts.get("document", ""):
        probes.append(replace(plain, id=f"{plain.id}/title", verb="encode_document", title=_TITLES[1]))
    if count(unspaced) > at:
        probes.append(replace(plain, id=f"{plain.id}/unspaced", text=unspaced))
    return probes


def _held_out(prompts: Mapping[str, str], limits: Limits, count: Count) -> list[Probe]:
    """Texts that the exporter did not calibrate on and that the model reads to the end."""
    return [
        Probe(f"held-out-{n}", HELD_OUT, text, prompt_name=name)
        for n, (name, text) in enumerate(held_out_texts.prompted(prompts) if limits.held_out else ())
        if count(prompts.get(name or "", "") + text) <= limits.max_seq_length
    ]


def _pieces(texts: Sequence[Text]) -> list[str]:
    """The pieces of which longer texts are composed."""
    return [t.text for t in texts if t.text.strip() and t.script not in ("Control tokens", "Control")]
