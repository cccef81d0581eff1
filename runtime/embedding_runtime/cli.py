"""`embed-text`: texts from a file or a pipe to vectors in a file or a pipe."""

import argparse
import json
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from embedding_runtime import prompts as prompting
from embedding_runtime import rows as reading
from embedding_runtime.embed_file import Job, Plan
from embedding_runtime.embedder import Embedder
from embedding_runtime.errors import EmbeddingError, InputError
from embedding_runtime.options import Options
from embedding_runtime.overflow import POLICIES
from embedding_runtime.progress import Progress
from embedding_runtime.quantization import PRECISIONS
from embedding_runtime.writers import JsonlWriter, NpyWriter, Writer, output_format

_INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run the command: 0 done, 1 a check, the disk or a pipe failed, 2 usage or input, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    try:
        with _terminable(), _warnings_told():
            return _run(arguments)
    except KeyboardInterrupt:
        _say("interrupted; the rows written so far are complete")
        return _INTERRUPTED
    except BrokenPipeError:
        # Python would complain again when it flushes standard output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _say("error: the reader of the output went away")
        return 1
    except EmbeddingError as e:
        _say(f"error: {e}")
        return 2 if isinstance(e, InputError) else 1
    except OSError as e:
        where = f" ({e.filename})" if e.filename else ""
        _say(f"error: {e.strerror or e}{where}; the rows written so far are complete")
        return 1


def _run(arguments: argparse.Namespace) -> int:
    source_path = None if arguments.file in (None, "-") else Path(arguments.file)
    output = None if arguments.output in (None, "-") else Path(arguments.output)
    _check_paths(arguments, source_path, output)
    source = reading.open_source(source_path)
    with Embedder(
        arguments.bundle,
        precision=arguments.precision,
        threads=arguments.threads,
        truncate_dim=arguments.dim,
        overflow=arguments.overflow,
        verify=arguments.verify,
        allow_failed=arguments.allow_failed,
    ) as embedder:
        plan = _plan(arguments, embedder)
        kind = arguments.input_format or reading.guess_format(source_path)
        fields = reading.Fields(arguments.text_field, arguments.title_field, arguments.id_field)
        job = Job(embedder, plan, _writer(arguments, embedder, output), _say)
        try:
            with Progress(None, arguments.progress) as progress:
                job.run(
                    reading.read_rows(source, kind, fields), lambda n: progress.advance(n, source.fraction)
                )
        finally:
            job.writer.close()
        _finish(arguments, job)
    return 0


def _check_paths(arguments: argparse.Namespace, source: Path | None, output: Path | None) -> None:
    kind = output_format(output)
    if arguments.json and output is None:
        raise InputError(
            "--json prints a report on standard output, so it needs --output FILE for the vectors."
        )
    if output is not None and source is not None and output.exists() and output.samefile(source):
        raise InputError(f"The output {output} is the input; choose another file.")
    if kind == "npy" and arguments.id_field:
        raise InputError("A .npy file holds vectors only. Write .jsonl or .parquet to keep --id-field.")
    if kind == "npy" and arguments.on_error == "null" and arguments.vector_precision != "float32":
        raise InputError(
            "A .npy file of integers has no null. Use --on-error skip, or write .jsonl or .parquet."
        )


def _plan(arguments: argparse.Namespace, embedder: Embedder) -> Plan:
    task = arguments.task
    if task is None and arguments.prompt is None and arguments.title_field:
        task = next((n for n in prompting.DOCUMENT_NAMES if embedder.prompts.get(n)), None)
    choice = prompting.PromptChoice(arguments.prompt, None, task)
    prompt = prompting.resolve(
        choice, embedder.prompts, embedder.manifest.aliases, embedder.default_prompt_name
    )
    if arguments.title_field:
        prompting.with_title(prompt, None)
    ranges = None
    if arguments.vector_precision in ("int8", "uint8"):
        ranges = _ranges(arguments.ranges, arguments.vector_precision)
    options = Options.of(
        arguments.batch_size,
        False,
        {"precision": arguments.vector_precision, "overflow": arguments.overflow},
    )
    return Plan(prompt, arguments.title_field is not None, options, arguments.on_error, ranges)


def _ranges(path: Path | None, precision: str) -> Any:
    if path is None:
        raise InputError(
            f"--vector-precision {precision} needs --ranges FILE: make it from typical texts with "
            "--write-ranges."
        )
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as e:
        raise InputError(f"{path} is not a .npy file of ranges ({e}). Make one with --write-ranges.") from e


def _writer(arguments: argparse.Namespace, embedder: Embedder, output: Path | None) -> Writer:
    dim, precision = embedder.get_embedding_dimension(), arguments.vector_precision
    width = (dim + 7) // 8 if precision in ("binary", "ubinary") else dim
    dtype = {"binary": "int8", "ubinary": "uint8"}.get(precision, precision)
    kind = output_format(output)
    if kind == "jsonl" or output is None:
        return JsonlWriter(output, arguments.id_field)
    if kind == "npy":
        return NpyWriter(output, width, dtype)
    from embedding_runtime.parquet_writer import ParquetWriter

    return ParquetWriter(output, width, dtype, arguments.id_field)


def _finish(arguments: argparse.Namespace, job: Job) -> None:
    report, embedder = job.report, job.embedder
    if arguments.write_ranges is not None and report.ranges is not None:
        with Path(arguments.write_ranges).open("wb") as file:
            np.save(file, report.ranges)
    if report.errors:
        _say(f"{len(report.errors)} of {report.texts} rows have no vector")
    if not arguments.json:
        return
    print(
        json.dumps(
            {
                "bundle": str(arguments.bundle),
                "graph": embedder.graph.key,
                "variant_id": embedder.graph.variant_id,
                "space_id": embedder.manifest.space_id,
                "output": str(arguments.output),
                "prompt": job.plan.prompt,
                "dim": embedder.get_embedding_dimension(),
                "vector_precision": arguments.vector_precision,
                "texts": report.texts,
                "written": report.written,
                "tokens": report.tokens,
                "seconds": round(report.seconds, 3),
                "cut_lines": report.cut_lines,
                "errors": report.errors,
            },
            indent=2,
            ensure_ascii=False,
        )
    )


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="embed-text",
        description="Turn texts into vectors with a bundle, one vector per row of the input.",
    )
    p.add_argument("bundle", metavar="BUNDLE", type=Path, help="a folder written by export-embedding")
    p.add_argument("file", metavar="FILE", nargs="?", help="the texts; - or nothing reads standard input")
    _add_input(p.add_argument_group("input"))
    _add_vectors(p.add_argument_group("vectors"))
    _add_output(p.add_argument_group("output"))
    return p


def _add_input(p: Any) -> None:
    formats = ["lines", "jsonl", "csv", "tsv"]
    p.add_argument("--input-format", choices=formats, help="default: by the file's suffix, else lines")
    p.add_argument("--text-field", metavar="NAME", default="text", help="field of the text (default: text)")
    p.add_argument("--title-field", metavar="NAME", help="field of the title, for the document prompt")
    p.add_argument("--id-field", metavar="NAME", help="field that is copied to the output")
    p.add_argument(
        "--on-error",
        choices=["stop", "skip", "null"],
        default="stop",
        help="a row that cannot be embedded ends the run, is left out, or gets no vector (default: stop)",
    )


def _add_vectors(p: Any) -> None:
    p.add_argument("--task", metavar="NAME", help="prompt by name or alias, e.g. query, document, STS")
    p.add_argument("--prompt", metavar="TEXT", help="prompt as text")
    p.add_argument("--dim", type=int, metavar="N", help="components to keep of each vector")
    p.add_argument(
        "--precision", metavar="NAME", help="of the graph: fp32, int8 ... (default: the best there is)"
    )
    p.add_argument(
        "--vector-precision", choices=PRECISIONS, default="float32", help="of the vectors (default: float32)"
    )
    p.add_argument("--ranges", type=Path, metavar="FILE", help="ranges for int8 and uint8 vectors (.npy)")
    p.add_argument("--write-ranges", type=Path, metavar="FILE", help="write the ranges of these vectors")
    p.add_argument(
        "--overflow",
        choices=POLICIES,
        default="truncate",
        help="for texts that are too long (default: truncate)",
    )
    p.add_argument("--batch-size", type=int, default=32, metavar="N", help="texts per run (default: 32)")
    p.add_argument("--threads", type=int, metavar="N", help="for the engine (default: all it may use)")
    p.add_argument(
        "--verify", choices=["cached", "always"], default="cached", help="hash files once, or always"
    )
    p.add_argument("--allow-failed", action="store_true", help="use a graph that failed its comparison")


def _add_output(p: Any) -> None:
    p.add_argument(
        "--output", "-o", metavar="FILE", help=".npy, .jsonl or .parquet (default: JSONL on standard output)"
    )
    p.add_argument("--json", action="store_true", help="print a report as one JSON document; needs --output")
    p.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        default=sys.stderr.isatty(),
        help="a line on standard error (default: where that is a terminal)",
    )


@contextmanager
def _terminable() -> Iterator[None]:
    """A termination signal ends the run as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@contextmanager
def _warnings_told() -> Iterator[None]:
    """Warnings as plain lines, without the source code they come from."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}")
        yield


def _say(line: str) -> None:
    print(f"embed-text: {line}", file=sys.stderr, flush=True)
