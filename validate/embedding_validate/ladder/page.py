"""The ladder as Markdown: a page of its own, and the part of it that README shows."""

from embedding_validate.compare.report.grid import NONE, grid, number
from embedding_validate.compare.report.text import NOISY
from embedding_validate.ladder.document import Ladder, Rung
from embedding_validate.ladder.quality import Quality

# The lengths whose times the summary shows: a query's, and a paragraph's.
_SHOWN = ("64", "256")


def page(ladder: Ladder) -> str:
    """The whole page: what was measured and on what, quality at every dim, and cost."""
    parts = [
        f"# Ladder of {ladder.checkpoint}",
        sentence(ladder),
        "## Quality at every dimension",
        _sets(ladder),
        quality(ladder),
        "## Cost",
        f"Times marked {NOISY} were disturbed. `own` memory is anonymous, `mapped` that of files, which the "
        "system can drop; both at their peak for one text of 256 tokens.",
        cost(ladder),
        times(ladder),
    ]
    return "\n\n".join(parts) + "\n"


def readme(ladder: Ladder) -> str:
    """The part that README shows: a sentence and the summary."""
    return "\n\n".join([sentence(ladder), summary(ladder)]) + "\n"


def sentence(ladder: Ladder) -> str:
    """What was measured, and on what."""
    features = ", ".join(name for name, there in ladder.machine["features"].items() if there)
    kind = " with random weights" if ladder.random_weights else ""
    engines = ", ".join(f"{name} {ladder.versions[name]}" for name in _ENGINES if name in ladder.versions)
    return (
        f"{ladder.checkpoint}{kind}, {ladder.parameters / 1e6:.0f} M parameters, on "
        f"{ladder.machine['cpu']} ({features}), {ladder.threads} threads, {ladder.date}; {engines}."
    )


_ENGINES = ("onnxruntime", "ai-edge-litert", "torch", "sentence-transformers", "numpy")


def quality(ladder: Ladder) -> str:
    """A row for every graph and dim."""
    head = ["graph", "dim", "STS", "nDCG@10", "recall@1", "mean cosine", "p1", "least"]
    rows = [[r.name, *_quality(q)] for r in ladder.rungs for q in r.quality]
    return grid(head, rows)


def summary(ladder: Ladder) -> str:
    """A row for every graph: its costs, and its quality at the full dim and at the smallest."""
    times = [f"ms, {length} tokens" for length in _SHOWN]
    head = ["", "MB", "own MB", "load s", *times, "STS", "nDCG@10", "mean cosine", "least cosine"]
    first, last = ladder.rungs[0].quality[0].dim, ladder.rungs[0].quality[-1].dim
    both = [f"{name}, {first} / {last}" if name in ("STS", "nDCG@10") else name for name in head]
    return grid(both, [_summary(r) for r in ladder.rungs])


def cost(ladder: Ladder) -> str:
    """A row for every graph."""
    head = ["graph", "MB on disk", "load s, first", "load s, then", "own MB", "mapped MB", "parity"]
    rows = [
        [
            r.name,
            number(_megabytes(r)),
            *map(number, (r.cost.first_load_s, r.cost.load_s, r.cost.anonymous_mb, r.cost.mapped_mb)),
            r.verdict,
        ]
        for r in ladder.rungs
    ]
    return grid(head, rows)


def times(ladder: Ladder) -> str:
    """Median milliseconds of one text, a column for every length in tokens."""
    lengths = sorted({int(n) for r in ladder.rungs for n in r.cost.median_ms})
    rows = [[r.name, *(_time(r, str(n)) for n in lengths)] for r in ladder.rungs]
    return grid(["ms, one text", *map(str, lengths)], rows)


def _time(rung: Rung, length: str) -> str:
    value = number(rung.cost.median_ms.get(length))
    return f"{value}{NOISY}" if length in rung.cost.noisy else value


def _quality(q: Quality) -> list[str]:
    figures = (q.sts, q.ndcg_10, q.recall_1)
    cosines = (q.cosine_mean, q.cosine_p1, q.cosine_min)
    return [str(q.dim), *map(_four, figures), *(f"{c:.5f}" for c in cosines)]


def _summary(rung: Rung) -> list[str]:
    first, last = rung.quality[0], rung.quality[-1]
    return [
        rung.name,
        *map(number, (_megabytes(rung), rung.cost.anonymous_mb, rung.cost.load_s)),
        *(_time(rung, length) for length in _SHOWN),
        f"{_four(first.sts)} / {_four(last.sts)}",
        f"{_four(first.ndcg_10)} / {_four(last.ndcg_10)}",
        f"{first.cosine_mean:.5f}",
        f"{first.cosine_min:.5f}",
    ]


def _megabytes(rung: Rung) -> float | None:
    return rung.cost.bytes / 1e6 if rung.cost.bytes else None


def _four(value: float | None) -> str:
    return NONE if value is None else f"{value:.4f}"


def _sets(ladder: Ladder) -> str:
    search = ladder.search
    search_text = (
        f"Search: {search['queries']} queries over {search['documents']} documents, {search['source']} "
        f"({search['licence']})."
    )
    if ladder.pairs is None:
        return f"{search_text} No pairs of sentences were given (`--sts FILE`)."
    return (
        f"STS: Spearman's correlation with people's scores over {ladder.pairs['pairs']} pairs "
        f"({ladder.pairs['file']}), prompt {ladder.pairs['prompt']}. {search_text} Cosines are to the "
        "reference's vectors of all these texts, at the same dimension."
    )
