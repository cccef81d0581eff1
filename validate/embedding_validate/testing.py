"""A helper for other people's tests: fails, saying why, where a bundle does not give its reference's vectors.

Measures nothing itself.
"""

from collections.abc import Sequence
from pathlib import Path

from embedding_validate import parity, probes, reference_file, table, texts
from embedding_validate.answers import Answers
from embedding_validate.results import Report


def assert_parity(
    bundle: str | Path, reference: str | Path | Answers, own: Sequence[str] | None = None
) -> Report:
    """Compare a bundle with its reference and return the report.

    `reference` is a checkpoint (folder or hub id), a `reference.npz`, or answers read before; `own` replaces
    the package's probe texts (with a checkpoint only).

    Raises:
        AssertionError: a graph failed; the message says which and why.
        EmbeddingError: the bundle or the reference cannot be opened.
    """
    answers = reference if isinstance(reference, Answers) else _answers(str(reference), own)
    report = parity.check(Path(bundle), answers)
    if not report.passed:
        raise AssertionError(
            "\n".join([f"{bundle} does not give its reference's vectors", *table.lines(report)])
        )
    return report


def _answers(reference: str, own: Sequence[str] | None) -> Answers:
    if reference.endswith(".npz"):
        return reference_file.load(Path(reference))
    from embedding_export.checkpoint import load_checkpoint
    from embedding_validate.reference import Reference

    loaded = Reference.load(load_checkpoint(reference))
    if own is None:
        chosen = probes.short(texts.packaged(), loaded.prompts, loaded.limits, loaded.count)
    else:
        chosen = probes.of_texts(
            [texts.Text(f"text-{n}", "User", t) for n, t in enumerate(own)], loaded.prompts
        )
    return loaded.answer(chosen)
