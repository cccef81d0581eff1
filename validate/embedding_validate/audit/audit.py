"""Judges one graph that another tool wrote: runs it on the reference's own ids, and compares the vectors.

`foreign_onnx` and `foreign_litert` open the files. `foreign_package` has a vendor's package opened by the
vendor's own client, which reads texts by itself.
"""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from embedding_export.checkpoint.checkpoint import Checkpoint
from embedding_validate.audit.foreign import Foreign, check_file
from embedding_validate.audit.foreign_onnx import open_onnx
from embedding_validate.machine import machine, versions
from embedding_validate.parity.parity import Progress, check_runner
from embedding_validate.parity.results import Report
from embedding_validate.reference.answers import Answers


def check(path: Path, checkpoint: Checkpoint, answers: Answers, progress: Progress) -> Report:
    """Compare a file with the reference's answers. The report has one graph, named by the file, with findings
    if it fails.

    The reference itself is loaded only if something fails.

    Raises:
        BundleError: the file is missing, or its engine does not load it.  EngineError: the engine is missing.
        InputError: the file is of no known kind, or its inputs or outputs have no known layout.
    """
    with ExitStack() as stack:
        foreign = _open(path, answers, checkpoint.normalize, stack)
        return _judged(foreign, path, checkpoint, answers, progress)


def _judged(
    foreign: Foreign, path: Path, checkpoint: Checkpoint, answers: Answers, progress: Progress
) -> Report:
    graph, supported = foreign.graph, _supported_answers(foreign, answers)
    report = check_runner(foreign.run, graph, supported, progress)
    if report.status == "failed" and not foreign.reads_text:
        from embedding_validate.diagnosis.diagnosis import Subject, diagnose_subject
        from embedding_validate.reference.reference import Reference

        subject = Subject(foreign.run, graph, path, checkpoint, same_weights=True, ours=False)
        report = diagnose_subject(subject, report, Reference.load(checkpoint), supported)
    return Report(
        probes=answers.probes.name,
        bundle={"file": path.name, "sha256": graph.variant_id},
        reference=answers.source,
        versions={**versions(), **answers.versions},
        machine=machine(),
        graphs={graph.key: report},
        notes=(*foreign.notes, *_left_out(foreign, supported, answers)),
    )


def _open(path: Path, answers: Answers, normalize: bool, stack: ExitStack) -> Foreign:
    check_file(path)
    if path.suffix == ".onnx":
        return open_onnx(path, answers, normalize)
    if path.suffix == ".tflite":
        from embedding_validate.audit.foreign_litert import open_litert

        return open_litert(path, answers)
    from embedding_validate.audit.foreign_package import open_package

    return stack.enter_context(open_package(path, answers))


def _supported_answers(foreign: Foreign, answers: Answers) -> Answers:
    """The answers to the probes that the graph supports."""
    supported = answers.for_graph(foreign.graph, pad_id=0)
    if foreign.reads_text:
        supported = supported.without_control_tokens()
    return supported if foreign.batches else replace(supported, probes=replace(supported.probes, batches=()))


def _left_out(foreign: Foreign, supported: Answers, answers: Answers) -> tuple[str, ...]:
    total, count = (sum(p.chunked_at is None for p in a.probes.probes) for a in (answers, supported))
    if total == count:
        return ()
    longest = max(foreign.graph.buckets)
    what = "control tokens to be read as such" if foreign.reads_text else "its padding id"
    return (
        f"{count} of {total} texts were compared: the others have more than the {longest} tokens that the "
        f"file takes, or {what} among their own.",
    )
