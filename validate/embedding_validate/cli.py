"""`validate-embedding`: compares a bundle, or one graph file, with its reference, and prints the result."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from embedding_runtime.console import run_command
from embedding_runtime.errors import InputError
from embedding_validate.reference.checks import require_same_weights


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 passed, 1 a check or the disk failed, 2 usage or input, 130 interrupted."""
    options = _options(argv)
    return run_command("validate-embedding", lambda: _run(options))


def _options(argv: list[str] | None) -> argparse.Namespace:
    """The arguments; combinations that make no sense are refused."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.reference is None and not options.cross:
        parser.error("the following arguments are required: --reference")
    for_parity = ("save", "revision", "sliding_window", "texts", "golden", "examples", "card")
    for name in for_parity if options.cross else ("corpus", "min_overlap"):
        value = getattr(options, name)
        if value is not None and value is not False:
            says = "does not go with" if options.cross else "needs"
            parser.error(f"--{name.replace('_', '-')} {says} --cross")
    return options


def _run(options: argparse.Namespace) -> int:
    if options.cross:
        return _cross(options)
    # Before the slow part: a typing mistake should not cost the time of loading a model.
    from embedding_runtime.bundle import load_manifest
    from embedding_validate.probes import texts

    manifest = load_manifest(options.bundle) if options.bundle else None
    if options.audit and (options.golden or options.examples):
        raise InputError("--golden and --examples need a bundle, with its prompts and tokenizer.")
    if options.audit:
        from embedding_validate.audit.foreign import check_file

        check_file(options.audit)
    own = texts.read(options.texts) if options.texts else None
    stored = _stored(options)
    checkpoint: Any = None if stored else _checkpoint(options, manifest)
    source = (stored or checkpoint).source
    if manifest:
        require_same_weights(manifest.source, source)
    if options.golden and manifest:
        from embedding_validate.tutorial import golden

        golden.require(source.name, manifest.architecture.parameters)
    if stored is not None:
        return _parity(options, manifest, stored, None)
    if options.examples:
        from embedding_validate.reference.reference import Reference

        _say(f"loading the reference of {source.name}")
        return _examples(options, manifest, Reference.load(checkpoint))
    answers = _answers(options, checkpoint, manifest, own)
    if options.audit:
        return _audit(options, answers, checkpoint)
    return _parity(options, manifest, answers, checkpoint)


def _cross(options: argparse.Namespace) -> int:
    from embedding_validate.cross import command

    def require_weights(server: Any, reference: str) -> None:
        if reference.endswith(".npz"):
            raise InputError(f"--cross embeds texts, but {reference} holds only answers. Give a checkpoint.")
        require_same_weights(server.source, _checkpoint(options, server).source)

    return command.run(options, require_weights, _say)


def _stored(options: argparse.Namespace) -> Any:
    """The answers in a reference file, or None if --reference names a checkpoint."""
    if not options.reference.endswith(".npz"):
        return None
    for name in ("texts", "examples", "save", "revision", "sliding_window", "audit"):
        if getattr(options, name):
            raise InputError(
                f"--{name.replace('_', '-')} needs the checkpoint itself, but {options.reference} holds only "
                "answers. Give the checkpoint as --reference."
            )
    from embedding_validate.reference import file as reference_file

    return reference_file.load(Path(options.reference))


def _checkpoint(options: argparse.Namespace, manifest: Any) -> Any:
    """The checkpoint, limited to the bundle's text length."""
    try:
        from embedding_export.checkpoint.checkpoint import load_checkpoint
    except ImportError as e:
        raise InputError(
            f"{e.name} is not installed. Install it with: pip install 'embedding-edge[validate]'"
        ) from e
    return load_checkpoint(
        options.reference,
        revision=options.revision,
        sliding_window=options.sliding_window,
        max_length=manifest.max_seq_length if manifest else None,
    )


def _answers(options: argparse.Namespace, checkpoint: Any, manifest: Any, own: Any) -> Any:
    from embedding_validate.reference import cache as reference_cache
    from embedding_validate.reference import file as reference_file

    progress = _Progress()
    _say(f"running the reference of {checkpoint.source.name}")
    graphs = manifest.graphs if manifest else ()
    answers = reference_cache.answers(
        checkpoint, own, graphs, lambda done, total: progress("reference", done, total)
    )
    progress.close()
    if options.save:
        reference_file.save(answers, options.save)
        _say(f"wrote {options.save}")
    return answers


def _parity(options: argparse.Namespace, manifest: Any, answers: Any, checkpoint: Any) -> int:
    from embedding_validate.parity import parity

    progress = _Progress()
    report = parity.check(
        options.bundle,
        answers,
        progress,
        manifest=manifest,
        execution=_execution(checkpoint, answers),
        weights=_weights(checkpoint),
        tutorial=options.golden,
    )
    progress.close()
    if not report.passed and checkpoint is not None:
        from embedding_validate.diagnosis.diagnosis import diagnose
        from embedding_validate.reference.reference import Reference

        _say("looking for what is wrong")
        report = diagnose(options.bundle, report, Reference.load(checkpoint), answers, manifest)
    _show(options, report)
    _say(f"wrote {report.write(options.bundle)}")
    _write_page(options.bundle)
    return 0 if report.passed else 1


def _audit(options: argparse.Namespace, answers: Any, checkpoint: Any) -> int:
    from embedding_validate.audit import audit

    progress = _Progress()
    report = audit.check(options.audit, checkpoint, answers, progress)
    progress.close()
    _show(options, report)
    return 0 if report.passed else 1


def _show(options: argparse.Namespace, report: Any) -> None:
    from embedding_validate.report import card, table

    for line in table.lines(report):
        _say(line)
    if options.json:
        print(report.to_json(), end="")
    if options.card:
        print(card.snippet(json.loads(report.to_json())), end="")


def _execution(checkpoint: Any, answers: Any) -> Any:
    """The execution check; None for a reference file, which lacks the checkpoint's weights."""
    if checkpoint is None:
        return None
    from embedding_validate.parity.execution import Execution

    return Execution(checkpoint, answers)


def _weights(checkpoint: Any) -> Any:
    """Compares a graph's stored weights with the checkpoint; None if there is only a reference file."""
    if checkpoint is None:
        return None
    from functools import partial

    from embedding_validate.parity import weights

    return partial(weights.compare_weights, checkpoint)


def _write_page(bundle: Path) -> None:
    from embedding_validate.report import page as report
    from embedding_validate.report.template import ReportError

    try:
        _say(f"wrote {report.write(bundle)}")
    except ReportError as e:
        (bundle / report.HTML).unlink(missing_ok=True)  # an older page would contradict parity.json
        _say(f"no parity.html: {e}")


def _examples(options: argparse.Namespace, manifest: Any, reference: Any) -> int:
    from embedding_runtime.bundle import BundleGraph
    from embedding_runtime.opening.selection import choose_graph
    from embedding_validate.runners.calls import of_embedder, open_graph
    from embedding_validate.tutorial import examples, golden

    graph = BundleGraph(options.bundle, manifest, choose_graph(manifest, None, None))
    with open_graph(graph) as embedder:
        shown = examples.run(
            examples.of_reference(reference),
            of_embedder(embedder),
            reference.prompts,
            manifest.dims,
            golden.is_printed_model(manifest.source.name, manifest.architecture.parameters),
        )
    if options.json:
        print(json.dumps(dataclasses.asdict(shown), indent=1, ensure_ascii=False))
    else:
        print("\n".join(examples.lines(shown)))
    return 0


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="validate-embedding",
        description="Compare every graph of a bundle with sentence-transformers on its checkpoint, and write "
        "the verdict into the bundle as parity.json.",
        epilog="Exit status: 0 passed, 1 a check or the disk failed, 2 usage or input, 130 interrupted.",
    )
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument("bundle", metavar="BUNDLE", type=Path, nargs="?", help="the bundle's folder")
    what.add_argument(
        "--audit",
        metavar="FILE",
        type=Path,
        help="compare a file of another tool instead, and write nothing: .onnx, .tflite, .task, .litertlm",
    )
    what.add_argument(
        "--cross",
        metavar=("SERVER_BUNDLE", "DEVICE_BUNDLE"),
        type=Path,
        nargs=2,
        help="measure what a search loses if the first embeds the documents, in fp32, and each graph of the "
        "second the queries; write cross.json and cross.html into the second",
    )
    p.add_argument(
        "--reference",
        metavar="CHECKPOINT",
        help="the checkpoint it was exported from (a sentence-transformers folder, or a hub id), or a "
        "reference.npz that --save wrote; not needed for --cross, where it embeds the documents with PyTorch",
    )
    p.add_argument(
        "--save",
        metavar="FILE",
        type=_npz,
        help="also keep the reference's answers in FILE.npz, for machines without PyTorch",
    )
    p.add_argument("--revision", help="commit, tag or branch of a hub id")
    p.add_argument(
        "--sliding-window",
        type=int,
        metavar="N",
        help="the sliding_window to use if the checkpoint's own is in doubt",
    )
    p.add_argument(
        "--texts",
        metavar="FILE",
        type=Path,
        help="compare on these texts instead: one per line, or JSON, CSV, TSV or Parquet with text",
    )
    p.add_argument(
        "--golden",
        action="store_true",
        help="also check the figures that the tutorial prints (google/embeddinggemma-300m only)",
    )
    p.add_argument(
        "--examples",
        action="store_true",
        help="show the tutorial's examples, reference and bundle side by side, and check nothing",
    )
    p.add_argument(
        "--corpus",
        metavar="FILE",
        type=Path,
        help="for --cross: your documents, one per line, or JSON, CSV, TSV or Parquet with text, or with "
        "query and document (default: NumPy's documentation)",
    )
    p.add_argument(
        "--min-overlap",
        metavar="SHARE",
        type=_share,
        help="for --cross: exit with 1 if a graph finds less of the first ten documents, e.g. 0.95",
    )
    printed = p.add_mutually_exclusive_group()
    printed.add_argument("--json", action="store_true", help="print the result as one JSON document")
    printed.add_argument("--card", action="store_true", help="print the result as Markdown for a model card")
    return p


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share; expected a number from 0 to 1")
    return value


def _npz(text: str) -> Path:
    if not text.endswith(".npz"):
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .npz")
    return Path(text)


class _Progress:
    """A line on stderr for the running check; none if stderr is not a terminal."""

    def __init__(self) -> None:
        self._shown = False

    def __call__(self, what: str, done: int, total: int) -> None:
        if sys.stderr.isatty():
            self._shown = True
            print(f"\r{what}: {done} of {total} ", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Clear the line."""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
