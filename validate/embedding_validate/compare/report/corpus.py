"""What a corpus says, as Markdown. Computes no figure that `compare.json` does not hold."""

from embedding_validate.compare.document.document import CorpusCost, CorpusRun
from embedding_validate.compare.report.grid import NONE, grid, number
from embedding_validate.measures.ranking import TOP_K

# The size of an index of this many documents is shown beside that of the corpus.
MILLION = 1_000_000


def markdown(found: CorpusRun) -> list[str]:
    """Sections on a corpus: what was asked, the costs, and how many texts changed."""
    kind = "queries" if found.pairs else "documents, each asking for its neighbours"
    parts = [
        f"### On your texts: {found.documents} documents, {found.asked} {kind}",
        sentence(found),
        grid(
            [
                "",
                "dim",
                "vectors",
                f"top {found.k}",
                "Spearman",
                "shift",
                "nDCG",
                "index MB",
                "GB per million",
            ],
            [_row(row) for row in found.rows],
        ),
    ]
    parts += [
        f"- {name}: {c.count} of {found.asked} change their first {found.k}"
        for name, c in found.changed.items()
    ]
    return [*parts, *(f"- {name}: {reason}" for name, reason in found.failures.items())]


def sentence(found: CorpusRun) -> str:
    """How to read the table."""
    base = f"{found.base} in full dimension and float32"
    ndcg = "" if found.base_ndcg is None else f", whose nDCG@{TOP_K} is {found.base_ndcg:.4f}"
    return (
        f"Against {base}{ndcg}: share of its first {found.k} that are found too, rank correlation of all "
        "scores, mean shift of a score."
    )


def _row(row: CorpusCost) -> list[str]:
    return [
        row.system,
        str(row.dim),
        row.vector_precision,
        f"{row.overlap:.3f}",
        f"{row.spearman:.4f}",
        number(row.shift_mean),
        NONE if row.ndcg is None else f"{row.ndcg:.4f}",
        number(row.index_bytes / 1e6),
        number(row.bytes_per_vector * MILLION / 1e9),
    ]
