"""`embed-text`: reads texts from a file or a pipe and writes vectors to a file or a pipe.

The subcommand `serve` is in the package `serve`.
"""

import argparse
import hashlib
import io
import json
import sys
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.console import run_command, show, warnings_as_lines
from embedding_runtime.embed_text.arguments import parser
from embedding_runtime.embed_text.files.existing import Existing
from embedding_runtime.embed_text.files.parquet_writer import ParquetWriter, spool
from embedding_runtime.embed_text.files.rows import Row
from embedding_runtime.embed_text.files.text_source import open_source
from embedding_runtime.embed_text.files.writers import JsonlWriter, NpyWriter, Writer, output_format
from embedding_runtime.embed_text.index import join_file
from embedding_runtime.embed_text.job import Job, Plan, Report
from embedding_runtime.embed_text.output_lock import locked
from embedding_runtime.embed_text.paths import Table, check_paths, choose_table, read_ranges
from embedding_runtime.embed_text.plan import make_plan, planned_stamp
from embedding_runtime.embed_text.resume import Digest, Mark, Notes
from embedding_runtime.embedder import Embedder
from embedding_runtime.encoding.options import Options
from embedding_runtime.encoding.progress import Progress
from embedding_runtime.encoding.stream import TOKEN_BUDGET, WINDOW_BATCHES, WINDOW_CHARACTERS
from embedding_runtime.engines.registry import check_engine_version
from embedding_runtime.machine.cpu import cpu_fingerprint
from embedding_runtime.machine.durable_file import replace_durably
from embedding_runtime.machine.threads import resolve_threads
from embedding_runtime.serve.command import cli as service
from embedding_runtime.stamps.files import PARQUET_KEY, stored_as, write_stamp
from embedding_runtime.stamps.stamp import Stamp


def main(argv: list[str] | None = None) -> int:
    """Run the command: 0 done, 1 a check, the disk or a pipe failed, 2 usage or input, 130 interrupted."""
    words = sys.argv[1:] if argv is None else argv
    if service.is_meant(words):
        return service.main(words[1:])
    arguments = parser().parse_args(words)

    def rows_note() -> str:
        return f"the rows written so far are complete{_resumable(arguments)}"

    with warnings_as_lines("embed-text"):
        return run_command(
            "embed-text",
            lambda: _run(arguments),
            on_interrupt=lambda: f"interrupted; {rows_note()}",
            on_disk_error=rows_note,
        )


def _run(arguments: argparse.Namespace) -> int:
    source_path = None if arguments.file in (None, "-") else Path(arguments.file)
    output = _output(arguments)
    check_paths(arguments, source_path, output)
    source = open_source(source_path)
    table = choose_table(source, source_path, arguments)
    with (
        locked(output),
        Embedder(
            arguments.bundle,
            format=arguments.format,
            precision=arguments.precision,
            threads=arguments.threads,
            truncate_dim=arguments.dim,
            overflow=arguments.overflow,
            verify=arguments.verify,
            allow_failed=arguments.allow_failed,
        ) as embedder,
    ):
        rows = _begun(table.rows(source))
        job = _job(arguments, embedder, output, table)
        complete = False
        try:
            with Progress(None, arguments.progress) as progress:
                job.run(rows, lambda n: progress.advance(n, source.fraction))
            complete = True
        finally:
            job.writer.close(complete or job.notes is None or not job.notes.path.exists())
        if arguments.write_ranges is not None and job.report.ranges is not None:
            _write_ranges(arguments.write_ranges, job.report.ranges)
        if job.notes:
            job.notes.clear()
        _finish(arguments, job)
    return 2 if job.report.texts and len(job.report.errors) == job.report.texts else 0


def _begun(rows: Iterator[Row]) -> Iterator[Row]:
    """The same rows, the first of them read: a header that does not fit must not cost an existing output."""
    return chain(list(islice(rows, 1)), rows)


def _job(arguments: argparse.Namespace, embedder: Embedder, output: Path | None, table: Table) -> Job:
    """The run, from its beginning or from where an interrupted one stopped."""
    plan = _plan(arguments, embedder)
    stamp, held = planned_stamp(embedder, plan), None
    if output is None:
        return Job(embedder, plan, _writer(arguments, None, stamp, 0, None), _say)
    if arguments.into:
        stamp, held = join_file(output, stamp, arguments.id_field, arguments.resume)
    settings = {**_settings(arguments, embedder, plan, table), "into": None if held is None else vars(held)}
    notes = Notes(output, settings, spool(output) if output_format(output) == "parquet" else output)
    mark = _mark(notes) if arguments.resume else None
    if mark is None:
        notes.clear()
    writer = _writer(arguments, output, stamp, mark.size if mark else 0, held)
    if output_format(output) != "parquet":
        write_stamp(output, stamp)
    if arguments.into and mark is None:
        # Before the first row: whatever ends the run, the next one knows which rows were there before.
        notes.write(Mark(0, Digest().hex(), writer.sync() or 0, Report().noted()))
    return Job(embedder, plan, writer, _say, notes, mark)


def _mark(notes: Notes) -> Mark | None:
    mark = notes.read()
    if mark is None or not notes.written.exists():
        _say("there is no interrupted run to resume; starting from the beginning")
        return None
    notes.check_output(mark)
    _say(f"resuming after {mark.rows} rows")
    return mark


def _settings(arguments: argparse.Namespace, embedder: Embedder, plan: Plan, table: Table) -> dict[str, Any]:
    """Everything other than the row itself that the bytes of a row in the output depend on."""
    ranges = None if plan.ranges is None else hashlib.sha256(plan.ranges.tobytes()).hexdigest()
    return {
        "graph": embedder.graph.variant_id,
        "engine": check_engine_version(embedder.graph),
        "cpu": cpu_fingerprint(),
        "threads": resolve_threads(arguments.threads),
        "input": [table.kind, *vars(table.fields).values(), table.delimiter],
        "prompt": plan.prompt,
        "titles": plan.titles,
        "on_error": plan.on_error,
        "dim": embedder.get_embedding_dimension(),
        "vector_precision": plan.options.precision,
        "overflow": plan.options.overflow,
        "allow_special": plan.options.allow_special,
        "ranges": ranges,
        "batches": [plan.options.batch_size, WINDOW_BATCHES, WINDOW_CHARACTERS, TOKEN_BUDGET],
    }


def _resumable(arguments: argparse.Namespace) -> str:
    return "" if _output(arguments) is None else "; the same command with --resume continues"


def _output(arguments: argparse.Namespace) -> Path | None:
    """The file that the vectors go to; None for standard output."""
    named = arguments.into or arguments.output
    return None if named in (None, "-") else Path(named)


def _plan(arguments: argparse.Namespace, embedder: Embedder) -> Plan:
    ranges = None
    if arguments.vector_precision in ("int8", "uint8"):
        ranges = read_ranges(arguments.ranges, arguments.vector_precision)
    options = Options.of(
        arguments.batch_size,
        False,
        {
            "precision": arguments.vector_precision,
            "task": arguments.task,
            "overflow": arguments.overflow,
            "allow_special": arguments.allow_special,
        },
    )
    return make_plan(
        embedder,
        options,
        arguments.on_error,
        arguments.prompt,
        arguments.title_field is not None,
        ranges,
    )


def _writer(
    arguments: argparse.Namespace, output: Path | None, stamp: Stamp, kept_bytes: int, held: Existing | None
) -> Writer:
    """A writer that continues after the `kept_bytes` of an interrupted run, or else after the rows `held`."""
    width, dtype = stored_as(stamp.dim, stamp.vector_precision)
    kind, first = output_format(output), held.next_index if held else 0
    if kind == "parquet" and output is not None:
        metadata = {PARQUET_KEY: stamp.to_json()}
        return ParquetWriter(
            output, width, dtype, arguments.id_field, metadata, kept_bytes, held.next_index if held else None
        )
    kept_bytes = kept_bytes or (held.kept_bytes if held else 0)
    if kind == "npy" and output is not None:
        return NpyWriter(output, width, dtype, kept_bytes)
    return JsonlWriter(output, arguments.id_field, kept_bytes, first)


def _write_ranges(path: Path, ranges: NDArray[np.float32]) -> None:
    """Write ranges (2, dim) as .npy; a failure leaves the previous file whole."""
    data, real = io.BytesIO(), path.resolve()
    np.save(data, ranges)
    if real.exists() and not real.is_file():  # a device or a pipe
        real.write_bytes(data.getvalue())
    else:
        replace_durably(real, data.getvalue(), real.with_name(f".{real.name}.new"))


def _finish(arguments: argparse.Namespace, job: Job) -> None:
    report, embedder = job.report, job.embedder
    if report.errors:
        _say(f"{len(report.errors)} of {report.texts} rows have no vector")
    if not report.texts:
        _say("warning: the input has no rows")
    if not arguments.json:
        return
    show(
        json.dumps(
            {
                "bundle": str(arguments.bundle),
                "graph": embedder.graph.key,
                "engine": f"{embedder.graph.engine} {check_engine_version(embedder.graph)}",
                "variant_id": embedder.graph.variant_id,
                "space_id": embedder.manifest.space_id,
                "output": str(_output(arguments)),
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
        + "\n"
    )


def _say(line: str) -> None:
    print(f"embed-text: {line}", file=sys.stderr, flush=True)
