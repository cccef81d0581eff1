"""`embedding-ladder`: measures how good every graph of a bundle is, and what it costs, with one command."""

import argparse
import sys
from pathlib import Path

from embedding_runtime.console import run_command
from embedding_validate.compare.document.shapes import count, up_to
from embedding_validate.files import make_folder, replace_text

LENGTHS = "16,64,256,512,2048"


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 measured, 1 a graph failed or is wrong, 2 usage or input, 130 interrupted."""
    options = _parser().parse_args(argv)
    return run_command(
        "embedding-ladder",
        lambda: _run(options),
        on_interrupt=lambda: "interrupted; --resume keeps the times that are measured",
    )


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="embedding-ladder",
        description="Measure every graph of a bundle: similarity, search and cosines at every dimension, "
        "size, loading, memory and latency. Writes ladder.json and ladder.md.",
    )
    p.add_argument("bundle", metavar="BUNDLE", type=Path, help="a folder of export-embedding")
    p.add_argument(
        "--reference", metavar="CHECKPOINT", required=True, help="the checkpoint that it was exported from"
    )
    p.add_argument("--output", metavar="DIR", type=Path, required=True, help="folder for the results")
    p.add_argument(
        "--sts",
        metavar="FILE",
        type=Path,
        help="lines of score, sentence, sentence, tab-separated",
    )
    p.add_argument("--threads", metavar="N", type=count, default=2, help="for the times (default: 2)")
    p.add_argument(
        "--lengths", metavar="LIST", help=f"tokens (default: {LENGTHS}, up to the bundle's length)"
    )
    p.add_argument("--resume", action="store_true", help="resume an interrupted run in DIR")
    return p


def _run(options: argparse.Namespace) -> int:
    from embedding_export.checkpoint.checkpoint import load_checkpoint
    from embedding_runtime.bundle import load_manifest
    from embedding_validate.ladder import measure, page, sets
    from embedding_validate.reference.checks import require_same_weights

    pairs = sets.read_pairs(options.sts) if options.sts else None
    search = sets.numpy_search()
    manifest = load_manifest(options.bundle)
    checkpoint = load_checkpoint(options.reference, max_length=manifest.max_seq_length)
    require_same_weights(manifest.source, checkpoint.source)
    make_folder(options.output)
    costs = options.output / "times"
    lengths = up_to(LENGTHS, [manifest]) if options.lengths is None else options.lengths
    run = measure.measure_cost(
        options.bundle, checkpoint.path, costs, lengths, options.threads, options.resume
    )
    quality = measure.measure_quality(options.bundle, checkpoint, pairs, search, _say)
    named = None if pairs is None else (options.sts.name, pairs)
    ladder = measure.assemble(options.bundle, quality, run, named, search)
    ladder.write(options.output / "ladder.json")
    text = page.page(ladder)
    replace_text(options.output / "ladder.md", text)
    print(text, end="")
    at_fault = measure.graphs_at_fault(run)
    for line in at_fault:
        _say(f"failed: {line}")
    return 1 if at_fault else 0


def _say(line: str) -> None:
    print(f"embedding-ladder: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
