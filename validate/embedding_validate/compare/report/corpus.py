"""The results on a corpus as Markdown; all figures come from `compare.json`."""

from embedding_validate.compare.document.document import CorpusCost, CorpusRun
from embedding_validate.compare.report.grid import NONE, grid, number
from embedding_validate.measures.ranking import TOP_K

# The size of an index of this many documents is shown beside that of the corpus.
MILLION = 1_000_000


def markdown(run: CorpusRun) -> list[str]:
    """Sections on a corpus: its queries, the costs, and how many texts changed."""
    kind = "queries" if run.pairs else "documents, each asking for its neighbours"
    parts = [
        f"### On your texts: {run.documents} documents, {run.asked} {kind}",
        sentence(run),
        grid(
            [
                "",
                "dim",
                "vectors",
                f"top {run.k}",
                "Spearman",
                "shift",
                "nDCG",
                "index MB",
                "GB per million",
            ],
            [_row(row) for row in run.rows],
        ),
    ]
    parts += [
        f"- {name}: {c.count} of {run.asked} change their first {run.k}" for name, c in run.changed.items()
    ]
    return [*parts, *(f"- {name}: {reason}" for name, reason in run.failures.items())]


def sentence(run: CorpusRun) -> str:
    """How to read the table."""
    base = f"{run.base} in full dimension and float32"
    if run.bases is not None:
        names = ", ".join(dict.fromkeys(run.bases.values()))
        return (
            f"Against the most exact of the same model ({names}) in full dimension and float32: share of its "
            f"first {run.k} that are found too, rank correlation of all scores, mean shift of a score. Only "
            "nDCG, where pairs say what should be found, compares models."
        )
    ndcg = "" if run.base_ndcg is None else f", whose nDCG@{TOP_K} is {run.base_ndcg:.4f}"
    return (
        f"Against {base}{ndcg}: share of its first {run.k} that are found too, rank correlation of all "
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
