"""`export-embedding`: makes a bundle from a checkpoint, and checks it before it gets its final name."""

import argparse
import json
import re
import sys
import time
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from embedding_export.options import BUCKETS, Package
from embedding_runtime.bundle import BundleGraph, Format, Manifest, Precision
from embedding_runtime.console import run_command, show
from embedding_runtime.errors import EmbeddingError

_UNITS = {"KB": 1e3, "MB": 1e6, "GB": 1e9}


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 exported, 1 a check or writing failed, 2 usage or input, 130 interrupted."""
    options = _parser().parse_args(argv)
    return run_command(
        "export-embedding",
        lambda: _run(options),
        on_interrupt=lambda: "interrupted, nothing was written",
        on_disk_error=lambda: "nothing was written",
    )


def _run(options: argparse.Namespace) -> int:
    try:
        from embedding_export.bundle.graphs import check_options
        from embedding_export.bundle.staging import check_target
        from embedding_export.checkpoint.checkpoint import load_checkpoint
        from embedding_export.options import Existing, ExportOptions
        from embedding_export.pipeline import export_bundle, summary
        from embedding_export.weights.sample import BUILT_IN, read_calibration

        reporter = _reporter()
    except ImportError as e:
        raise EmbeddingError(
            f"{e.name} is not installed. Install it with: pip install 'embedding-edge[export]'"
        ) from None
    existing: Existing = "extend" if options.add else "replace" if options.overwrite else "refuse"
    export_options = ExportOptions(
        precisions=options.precision,
        formats=tuple(f for f in options.format if f in typing.get_args(Format)),
        packages=tuple(f for f in options.format if f in typing.get_args(Package)),
        buckets=options.buckets,
        litert_single=options.litert_single,
        existing=existing,
        dims=options.dims,
        client_files=not options.no_client_files,
        alphabet=options.alphabet,
        keep_failed=options.keep_failed,
        target_cosine=options.target_cosine,
        max_bytes=options.max_size,
        calibration=read_calibration(options.calibration) if options.calibration else BUILT_IN,
    )
    check_target(options.bundle, existing)
    check_options(export_options)
    started = time.monotonic()
    _say(f"reading {options.checkpoint}")
    checkpoint = load_checkpoint(
        options.checkpoint,
        revision=options.revision,
        sliding_window=options.sliding_window,
        max_length=options.max_length,
    )
    for note in checkpoint.source.notes:
        _say(f"note: {note}")
    manifest = export_bundle(checkpoint, options.bundle, export_options, _gate(checkpoint), reporter)
    seconds = time.monotonic() - started
    for line in _verdict(manifest, options.bundle, seconds):
        _say(line)
    if options.json:
        show(json.dumps(summary(manifest, options.bundle, seconds), indent=2, ensure_ascii=False) + "\n")
    return 0


def _gate(checkpoint: Any) -> Any:
    """The validator's gate, or the reason why it cannot run here. The import is late because only the gate
    needs PyTorch."""
    try:
        from embedding_validate.reference.reference import unavailable
    except ImportError as e:
        return f"{e.name} is not installed"
    if reason := unavailable():
        return reason
    from embedding_validate.gate import parity_gate

    return parity_gate(checkpoint, _checks())


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="export-embedding",
        description="Turn an EmbeddingGemma checkpoint into a bundle for devices, compared with "
        "sentence-transformers before it gets its name.",
    )
    p.add_argument("checkpoint", metavar="CHECKPOINT", help="a sentence-transformers folder, or a hub id")
    p.add_argument("bundle", metavar="BUNDLE", type=Path, help="the folder to write")
    what = p.add_mutually_exclusive_group()
    what.add_argument(
        "--precision",
        type=_precisions,
        default=("int8",),
        metavar="LIST",
        help="graphs to write, comma-separated: int8, int8_q4 (8-bit matrices, 4-bit table), int4, fp16 "
        "(onnx only), mixed (litert only), fp32 (default: int8)",
    )
    what.add_argument(
        "--target-cosine",
        type=float,
        metavar="C",
        help="instead of a precision: the smallest onnx graph of 4-bit and 8-bit parts whose mean cosine to "
        "the float32 model is at least C, such as 0.995, on texts that it was not calibrated on",
    )
    p.add_argument(
        "--max-size",
        type=_bytes,
        metavar="SIZE",
        help="with --target-cosine: refuse a graph that takes more, such as 200MB",
    )
    p.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="round by your own texts in place of the built-in ones of many languages: one per line, or "
        "records with text, as embed-text reads them",
    )
    p.add_argument(
        "--format",
        type=_formats,
        default=("onnx",),
        metavar="LIST",
        help="onnx, litert or both, comma-separated (default: onnx); with litert also task and "
        "litertlm: packages of its files for MediaPipe and LiteRT-LM",
    )
    p.add_argument(
        "--buckets",
        type=_ints,
        default=BUCKETS,
        metavar="LIST",
        help=f"the input lengths of a LiteRT file (default: {','.join(map(str, BUCKETS))}, up to the "
        "bundle's length)",
    )
    p.add_argument(
        "--litert-single",
        type=int,
        metavar="S",
        help="one length of S tokens instead of several, under the name of the published files",
    )
    there = p.add_mutually_exclusive_group()
    there.add_argument("--add", action="store_true", help="add the graphs to a bundle of the same checkpoint")
    there.add_argument("--overwrite", action="store_true", help="replace the bundle")
    p.add_argument(
        "--dims", type=_ints, metavar="LIST", help="Matryoshka dimensions to record, comma-separated"
    )
    p.add_argument(
        "--alphabet",
        metavar="NAMES",
        help="trim the vocabulary to the alphabets ascii, latin, greek, cyrillic, or to the characters of a "
        "text file; several joined by +",
    )
    p.add_argument("--revision", help="commit, tag or branch of a hub id")
    p.add_argument(
        "--max-length",
        type=int,
        metavar="N",
        help="tokens of a text that are read (default: as many as the model takes, or 2048 if it takes more)",
    )
    p.add_argument(
        "--sliding-window",
        type=int,
        metavar="N",
        help="the sliding_window to use if the checkpoint's own is in doubt",
    )
    p.add_argument(
        "--no-client-files",
        action="store_true",
        help="leave out config.json and tokenizer files for other clients",
    )
    p.add_argument(
        "--keep-failed",
        type=Path,
        metavar="DIR",
        help="keep a bundle that fails its comparison here, for study",
    )
    p.add_argument("--json", action="store_true", help="print the result as one JSON document")
    return p


def _precisions(text: str) -> tuple[str, ...]:
    return _names(text, typing.get_args(Precision))


def _formats(text: str) -> tuple[str, ...]:
    return _names(text, (*typing.get_args(Format), *typing.get_args(Package)))


def _names(text: str, choices: Sequence[str]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    if unknown := [n for n in names if n not in choices]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(choices)}")
    return names


def _ints(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(n) for n in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as 512,256,128") from None


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(KB|MB|GB)", text, re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 200MB or 0.2GB")
    return round(float(match[1]) * _UNITS[match[2].upper()])


def _reporter() -> Any:
    from tqdm import tqdm

    from embedding_export.reporting import Reporter

    def weights(total: int) -> Callable[[int], None]:
        bar = tqdm(total=total, unit="B", unit_scale=True, file=sys.stderr, leave=False, disable=None)
        return lambda n: _advance(bar, n)

    return Reporter(_say, weights)


def _checks() -> Callable[[str, int, int], None]:
    """A progress bar for the gate's checks, which arrive as (name of the running check, done, total)."""
    from tqdm import tqdm

    bars: dict[str, Any] = {}

    def checked(what: str, done: int, total: int) -> None:
        if what not in bars:
            bars[what] = tqdm(
                total=total, desc=what, unit="check", file=sys.stderr, leave=False, disable=None
            )
        _advance(bars[what], done - bars[what].n)

    return checked


def _advance(bar: Any, n: int) -> None:
    bar.update(n)
    if bar.n >= bar.total:
        bar.close()


def _verdict(manifest: Manifest, bundle: Path, seconds: float) -> list[str]:
    lines = [f"wrote {bundle} in {seconds:.1f} s"]
    for graph in manifest.graphs:
        size = sum(BundleGraph(bundle, manifest, graph).sizes.values())
        parity = graph.parity
        lines.append(f"  {graph.key:12} {size / 1e6:9,.1f} MB   parity: {parity.status}")
        if parity.status == "passed":
            error = f"cosine >= {parity.cosine_min:.7f}, error <= {parity.max_abs_error:.1e}"
            lines[-1] += f" ({parity.texts} texts, {error}; floors of {parity.floors})"
        elif parity.reason:
            lines[-1] += f" ({parity.reason})"
        if made := graph.composition:
            eight = ", ".join(part for part, bits in made.bits.items() if bits == 8) or "none"
            lines.append(
                f"    mean cosine {made.cosine_mean:.5f} on {made.texts} texts not calibrated on, target "
                f"{made.target_cosine}; 8 bits in: {eight}"
            )
    return lines


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
