"""For users' programs and tests: checks whether a bundle gives its reference's vectors."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from embedding_runtime.bundle import Graph, load_manifest
from embedding_runtime.errors import InputError
from embedding_validate.parity import parity
from embedding_validate.parity.results import Report
from embedding_validate.probes import probes, texts
from embedding_validate.reference import file as reference_file
from embedding_validate.reference.answers import Answers
from embedding_validate.report import table

if TYPE_CHECKING:
    from embedding_validate.reference.reference import Reference


def check(bundle: str | Path, reference: str | Path | Answers, own: Sequence[str] | None = None) -> Report:
    """Compare every graph of a bundle with its reference.

    `reference` is a checkpoint (folder or hub id), a `reference.npz`, or answers read earlier. With a
    checkpoint all checks of `validate-embedding` run, on the exporter's probe texts or on `own`. The others
    hold only answers, so stored weights and execution are not checked.

    Raises:
        InputError: `own` texts were given without a checkpoint that could embed them.
        EmbeddingError: the bundle or the reference cannot be opened.
    """
    folder = Path(bundle)
    if not isinstance(reference, Answers) and not str(reference).endswith(".npz"):
        return _with_checkpoint(folder, str(reference), own)
    if own is not None:
        raise InputError("own texts need the checkpoint itself as the reference, which encodes them.")
    stored = reference if isinstance(reference, Answers) else reference_file.load(Path(reference))
    return parity.check(folder, stored)


def assert_parity(
    bundle: str | Path, reference: str | Path | Answers, own: Sequence[str] | None = None
) -> Report:
    """The report of `check`, with the same arguments and errors, if every graph passed.

    Raises:
        AssertionError: a graph failed; the message says which and why.
    """
    report = check(bundle, reference, own)
    if not report.passed:
        raise AssertionError(
            "\n".join([f"{bundle} does not give its reference's vectors", *table.lines(report)])
        )
    return report


def _with_checkpoint(bundle: Path, checkpoint: str, own: Sequence[str] | None) -> Report:
    """Run all three checks: loss, execution, and stored weights."""
    from embedding_export.checkpoint.checkpoint import load_checkpoint
    from embedding_validate.parity import weights
    from embedding_validate.parity.execution import Execution
    from embedding_validate.reference.reference import Reference

    manifest = load_manifest(bundle)
    loaded = Reference.load(load_checkpoint(checkpoint, max_length=manifest.max_seq_length))
    answers = loaded.answer(_probes(loaded, own, manifest.graphs))
    return parity.check(
        bundle,
        answers,
        manifest=manifest,
        execution=Execution(loaded.checkpoint, answers),
        weights=partial(weights.compare_weights, loaded.checkpoint),
    )


def _probes(loaded: "Reference", own: Sequence[str] | None, graphs: Sequence[Graph]) -> probes.ProbeSet:
    if own is not None:
        mine = [texts.Text(f"text-{n}", "User", t) for n, t in enumerate(own)]
        return probes.of_texts(mine, loaded.prompts)
    held_out = probes.composed(graphs)
    limits = replace(loaded.limits, buckets=probes.buckets(graphs), held_out=held_out)
    return probes.short(texts.packaged(), loaded.prompts, limits, loaded.count)
