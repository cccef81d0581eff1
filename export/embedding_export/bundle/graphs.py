"""Makes one graph of a bundle: writes it, audits its weights, takes its golden vectors, and describes it.

It calls the writers of both formats; `pipeline` decides on the order of an export.
"""

import hashlib
import importlib.util
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from embedding_export.architectures.registry import tensor_specs
from embedding_export.audit.audit import audit_graph
from embedding_export.bundle import describe
from embedding_export.bundle.golden import SpecialIds, golden_vectors, held_out_ids, seven_bits_tolerance
from embedding_export.bundle.packages import KINDS, check_packages, package
from embedding_export.checkpoint.checkpoint import Checkpoint
from embedding_export.errors import ExportError
from embedding_export.options import ExportOptions
from embedding_export.reporting import Reporter
from embedding_export.weights.calibration import calibrate
from embedding_export.weights.encoder import Encoder
from embedding_export.weights.folding import as_stored, folded
from embedding_export.weights.matrices import Matrices
from embedding_export.weights.precisions import (
    LITERT,
    LITERT_MIN_VERSION,
    NOT_OFFERED,
    PRECISIONS,
    LitertRow,
    PrecisionRow,
    precision_row,
    recipe_for,
)
from embedding_export.weights.sample import OPTION
from embedding_runtime.bundle import Format, Graph, Parity, Precision
from embedding_runtime.engines.onnx_session import OnnxSession
from embedding_runtime.engines.registry import check_floor
from embedding_runtime.machine.threads import available_cpus
from embedding_runtime.opening.integrity import sha256

if TYPE_CHECKING:
    from embedding_export.composing.choose import Chosen

# The checkpoint whose single-length LiteRT files have a published name.
PUBLISHED, PUBLISHED_NAME = "google/embeddinggemma-300m", "embeddinggemma-300M"
NOT_YET = Parity("not run", "the export did not reach this check")


@dataclass(frozen=True)
class Source:
    """The source of all graphs; they share one calibration and the codes of their matrices."""

    checkpoint: Checkpoint
    special: SpecialIds

    @cached_property
    def matrices(self) -> Matrices:
        """Rounds matrices by the encoder's activations on the sample; the Dense stages do not count."""
        config, weights = self.checkpoint.config, folded(self.checkpoint)
        seen = calibrate(config, weights, self.special.sample, self.special.beside)
        _release(self.checkpoint)
        return Matrices(config, weights, seen)

    def encoder(self, fold_dense: bool) -> Encoder:
        """The checkpoint as the writers read it."""
        c = self.checkpoint
        weights = folded(c) if fold_dense else as_stored(c)
        dim = describe.embedding_dim(c)
        return Encoder(
            c.config,
            weights,
            c.normalize,
            dim,
            c.max_seq_length,
            self.special.sample,
            c.include_prompt,
            shared=lambda: self.matrices,
        )


def graphs_to_write(options: ExportOptions) -> tuple[tuple[Format, Precision], ...]:
    """The graphs to write: each precision in every format that offers it.

    Raises:
        ExportError: a precision that none of the formats offers.
    """
    offered: dict[Format, Sequence[Precision]] = {"onnx": tuple(PRECISIONS), "litert": tuple(LITERT)}
    graphs = tuple((f, p) for f in options.formats for p in options.precisions if p in offered[f])
    for precision in options.precisions:
        if not any(p == precision for _, p in graphs):
            format = options.formats[0]
            raise ExportError(
                f"{format} has no precision {precision!r}; it has {', '.join(offered[format])}. "
                f"{NOT_OFFERED[format, precision]}"
            )
    return graphs


def choose_composition(source: Source, folder: Path, options: ExportOptions, report: Reporter) -> "Chosen":
    """The smallest graph that holds `options.target_cosine`; trials are written below `folder`.

    Raises:
        ExportError: no graph does, or none that is small enough, or the checkpoint was trained for a grid of
            its own.
    """
    from embedding_export.composing.choose import Trials, Wanted, choose  # needs onnx

    checkpoint = source.checkpoint
    if checkpoint.source.qat == "q4_0":
        raise ExportError(
            f"{checkpoint.path} was trained for Q4_0, which --precision int4 stores exactly. A composition "
            "would lose what was trained: leave out --target-cosine."
        )
    assert options.target_cosine is not None
    trials = Trials(source.encoder(True), held_out_ids(checkpoint), folder / "trial", report)
    return choose(trials, Wanted(options.target_cosine, options.max_bytes))


def left_out(options: ExportOptions) -> list[str]:
    """The formats that lack a requested precision which another format has, each with the reason."""
    requested = [(f, p) for f in options.formats for p in options.precisions]
    return [f"no {f}/{p}: {NOT_OFFERED[f, p]}" for f, p in requested if (f, p) in NOT_OFFERED]


def bytes_needed(checkpoint: Checkpoint, options: ExportOptions) -> int:
    """Roughly the bytes that the graphs need on the disk while they are written (a LiteRT file and
    each of its packages need twice its size)."""
    parameters = describe.architecture(checkpoint).parameters
    copies = 2 * (1 + len(options.packages))
    each = [
        PRECISIONS[p].bytes_per_parameter if f == "onnx" else copies * LITERT[p].bytes_per_parameter
        for f, p in graphs_to_write(options)
    ]
    return int(sum(each) * parameters)


def check_options(options: ExportOptions) -> None:
    """Check everything that can be checked without a checkpoint.

    Raises:
        ExportError: an impossible precision or bucket, or onnx is needed and not installed.
        EngineError: an engine is not installed, does not run on this machine, or is too old for a precision.
    """
    _check_target(options)
    check_packages(options)
    rows = [PRECISIONS[p] if f == "onnx" else LITERT[p] for f, p in graphs_to_write(options)]
    if options.calibration.file is not None and not any(row.calibrated for row in rows):
        raise ExportError(f"{', '.join(options.precisions)} rounds nothing by texts. Leave out {OPTION}.")
    if any(f == "onnx" for f, _ in graphs_to_write(options)) and importlib.util.find_spec("onnx") is None:
        raise ExportError("onnx is not installed. Install it with: pip install 'embedding-edge[export]'")
    for format, precision in graphs_to_write(options):
        check_floor(format, precision)
    if any(f == "litert" for f, _ in graphs_to_write(options)):
        _lengths(options, sys.maxsize)
    elif options.litert_single is not None:
        raise ExportError("--litert-single is about LiteRT files. Add --format litert.")


def _check_target(options: ExportOptions) -> None:
    target, most = options.target_cosine, options.max_bytes
    if target is None and most is not None:
        raise ExportError("--max-size is for a graph that is composed. Add --target-cosine, such as 0.995.")
    if target is not None and not 0 < target < 1:
        raise ExportError(f"--target-cosine is {target}; expected a number between 0 and 1, such as 0.995.")
    if target is not None and options.formats != ("onnx",):
        raise ExportError(
            "--target-cosine composes only ONNX graphs. Leave out --format, and add a LiteRT graph of a "
            "named precision to the bundle with --add."
        )


def write_graph(
    source: Source,
    folder: Path,
    which: tuple[Format, Precision],
    options: ExportOptions,
    report: Reporter,
    choice: "Chosen | None" = None,
) -> Graph:
    """Write, audit and describe one graph below `folder`, an ONNX one by `choice` if there is one.

    Raises:
        AuditError: a stored tensor is not the checkpoint's.  ExportError: the format cannot hold it.
    """
    started = time.monotonic()
    report.step(f"writing {which[0]}/{which[1]}")
    if which[0] == "onnx":
        graph, compared = _write_onnx(source, folder, which[1], report, choice)
    else:
        graph, compared = _write_litert(source, folder, which[1], options, report)
    report.step(f"{compared} tensors are the checkpoint's ({time.monotonic() - started:.1f} s)")
    return graph


def _write_onnx(
    source: Source, folder: Path, precision: Precision, report: Reporter, choice: "Chosen | None"
) -> tuple[Graph, int]:
    from embedding_export.onnx.writer import INPUTS, OUTPUTS, write_onnx

    checkpoint = source.checkpoint
    row = choice.row if choice else precision_row(precision, checkpoint.source.qat)
    path = _place(folder, "onnx", row.onnx_file)
    total = int(row.bytes_per_parameter * describe.architecture(checkpoint).parameters)
    data = write_onnx(source.encoder(row.fold_dense), path, report.weights(total), row)
    _release(checkpoint)
    report.step(f"auditing the weights of onnx/{precision}")
    compared = audit_graph(path, checkpoint)
    golden = golden_vectors(
        OnnxSession(path, available_cpus()),
        source.special,
        checkpoint.config.window,
        checkpoint.max_seq_length,
    )
    tolerance = row.golden_tolerance
    if row.storage == "int8":
        tolerance = {**tolerance, **seven_bits_tolerance(path, golden, tolerance["any"])}
    graph = Graph(
        format="onnx",
        precision=precision,
        recipe=_recipe(recipe_for(row.recipe, row.storage, tensor_specs(checkpoint.config)), row, source),
        file=path.relative_to(folder).as_posix(),
        external_data=(data.relative_to(folder).as_posix(),),
        inputs=INPUTS,
        outputs=OUTPUTS,
        buckets=(),
        opset=row.opset,
        engine="onnxruntime",
        engine_min_version=row.engine_min_version,
        variant_id=_variant_id(path, data),
        golden=golden,
        golden_tolerance=tolerance,
        parity=NOT_YET,
        bit_stable=row.bit_stable,
        composition=choice.composition if choice else None,
    )
    return graph, compared


def _write_litert(
    source: Source, folder: Path, precision: Precision, options: ExportOptions, report: Reporter
) -> tuple[Graph, int]:
    from embedding_export.litert.conformance import Subject, write_litert_conformance
    from embedding_export.litert.ops import Lengths
    from embedding_export.litert.writer import NAMES, PUBLISHED_NAMES, write_litert
    from embedding_runtime.engines.litert_session import LitertSession

    checkpoint, row, pad_id = source.checkpoint, LITERT[precision], source.special.pad_id
    buckets = _lengths(options, checkpoint.max_seq_length)
    path = _place(folder, "litert", litert_file(checkpoint, precision, options.litert_single))
    lengths = [Lengths(b, buckets[-1], pad_id) for b in buckets]
    total = int(row.bytes_per_parameter * describe.architecture(checkpoint).parameters)
    names = NAMES if options.litert_single is None else PUBLISHED_NAMES
    write_litert(source.encoder(True), path, row, lengths, report.weights(total), names)
    _release(checkpoint)
    report.step(f"auditing the weights of litert/{precision}")
    compared = audit_graph(path, checkpoint)
    session = LitertSession(path, available_cpus(), pad_id)
    graph = Graph(
        format="litert",
        precision=precision,
        recipe=_recipe(recipe_for(row.recipe, row.per_layer, tensor_specs(checkpoint.config)), row, source),
        file=path.relative_to(folder).as_posix(),
        external_data=(),
        inputs=(names.input,),
        outputs=(names.output,),
        buckets=buckets,
        opset=None,
        engine="ai-edge-litert",
        engine_min_version=LITERT_MIN_VERSION,
        variant_id=_variant_id(path),
        golden=golden_vectors(session, source.special, checkpoint.config.window, buckets[-1]),
        golden_tolerance=row.golden_tolerance,
        parity=NOT_YET,
        bit_stable=row.bit_stable,
    )
    subject = Subject(checkpoint.prompts, describe.dims(checkpoint, options.dims), checkpoint.max_seq_length)
    write_litert_conformance(_conformance(path), graph, subject, source.special.golden, session)
    return graph, compared


def _recipe(recipe: dict[str, str], row: PrecisionRow | LitertRow, source: Source) -> dict[str, str]:
    """What was done, and by which texts."""
    return {**recipe, "calibration": source.special.calibration} if row.calibrated else recipe


def remove(graph: Graph, folder: Path) -> None:
    """Take a graph's files out of a bundle's folder."""
    files = [folder / name for name in (graph.file, *graph.external_data)]
    for path in (*files, _conformance(files[0]), *(package(files[0], kind) for kind in KINDS)):
        path.unlink(missing_ok=True)


def litert_file(checkpoint: Checkpoint, precision: Precision, single: int | None) -> str:
    """A LiteRT file's name; if it has a single length, it follows the published files' naming."""
    if single is None:
        return f"model_{precision}.tflite"
    own = re.sub(r"[^A-Za-z0-9._-]+", "-", checkpoint.source.name.rstrip("/").rpartition("/")[2]) or "model"
    name = PUBLISHED_NAME if checkpoint.source.name.casefold() == PUBLISHED else own
    kind = "mixed-precision" if precision == "mixed" else precision
    return f"{name}_seq{single}_{kind}.tflite"


def _lengths(options: ExportOptions, longest: int) -> tuple[int, ...]:
    from embedding_export.litert.writer import check_buckets

    lengths = options.buckets if options.litert_single is None else (options.litert_single,)
    return check_buckets(lengths, longest)


def _conformance(path: Path) -> Path:
    """Where a LiteRT file's conformance file lies."""
    return path.with_name(f"{path.stem}_conformance.json")


def _place(folder: Path, format: Format, name: str) -> Path:
    """The path of a graph. A file that is already there, in a bundle that is added to, is a hard link and is
    removed first."""
    path = folder / format / name
    path.parent.mkdir(exist_ok=True)
    for old in (path, path.with_name(path.name + "_data")):
        old.unlink(missing_ok=True)
    return path


def _release(checkpoint: Checkpoint) -> None:
    """Release the checkpoint's pages: with the written graph they would fill a small machine's memory."""
    for tensor in checkpoint.tensors.values():
        tensor.release()


def _variant_id(*files: Path) -> str:
    """Hash of the graph file and its weights: this very graph."""
    digests = [sha256(p) for p in files]
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()[:32]
