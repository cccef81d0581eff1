"""The order of an export: read → build → weight audit → golden vectors → gate → write.

Only this file knows the order; each step is in the module that it calls. The gate is passed in, because the
exporter does not import the validator.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedding_export.bundle import companions, describe, verdicts
from embedding_export.bundle.golden import SpecialIds, golden_ids
from embedding_export.bundle.graphs import (
    Source,
    bytes_needed,
    check_options,
    choose_composition,
    graphs_to_write,
    left_out,
    remove,
    write_graph,
)
from embedding_export.bundle.packages import require_packages, write_packages
from embedding_export.bundle.staging import require_space, staged
from embedding_export.checkpoint.checkpoint import Checkpoint
from embedding_export.errors import ExportError, ParityError
from embedding_export.files.tokenizer_json import UnsupportedTokenizer
from embedding_export.options import ExportOptions
from embedding_export.reporting import SILENT, Reporter
from embedding_export.tokenizer.conformance import FILE as CONFORMANCE
from embedding_export.tokenizer.conformance import write_conformance
from embedding_export.tokenizer.table import build_table
from embedding_export.tokenizer.trimming import trim_vocabulary
from embedding_runtime.bundle import (
    MANIFEST,
    BundleGraph,
    Graph,
    Manifest,
    Parity,
    TokenizerInfo,
    load_manifest,
)

Verdict = Mapping[str, Parity]
Gate = Callable[[Path], Verdict]
"""Takes a finished bundle that has not got its name yet, and whose manifest has only the graphs that need a
verdict; gives one for each `Graph.key`."""

TOKENIZER_TABLE = "tokenizer.table"
TOKENIZER_JSON = "tokenizer.json"
KEPT_IDS = "kept_ids.npy"
# Everything but the weights: tokenizer files, manifest, graph files, and room for the file system.
OVERHEAD_BYTES = 64_000_000


def export_bundle(
    checkpoint: Checkpoint,
    bundle: Path,
    options: ExportOptions,
    gate: Gate | str,
    report: Reporter = SILENT,
) -> Manifest:
    """Write a bundle, check it, and only then give it its name.

    `gate` compares the finished bundle with the reference; a str instead says why that cannot be done here,
    and becomes the reason of the verdict "not run".

    Raises:
        ExportError: the target may not be written, or the disk has no room.
        AuditError: a stored tensor is not the checkpoint's.
        ParityError: the bundle does not give the reference's vectors; nothing is left under the target's
        name.
    """
    describe.dims(checkpoint, options.dims)  # a wrong one is refused before any work
    if options.keep_failed and options.keep_failed.exists():
        raise ExportError(f"{options.keep_failed} exists already. Give --keep-failed another name.")
    check_options(options)
    if not checkpoint.include_prompt and "litert" in options.formats:
        raise ExportError(
            f"{checkpoint.path} leaves the prompt's tokens out of the mean (include_prompt is false in its "
            "pooling). LiteRT graphs take only token ids and cannot tell the prompt's: export --format onnx."
        )
    require_packages(checkpoint, options)
    for note in left_out(options):
        report.step(f"note: {note}")
    require_space(bundle.parent.resolve(), bytes_needed(checkpoint, options) + OVERHEAD_BYTES)
    with staged(bundle, options.existing) as staging, tempfile.TemporaryDirectory() as scratch:
        kept_ids = None
        if options.alphabet is not None:
            report.step(f"trimming the vocabulary to {options.alphabet}")
            checkpoint, cut = trim_vocabulary(checkpoint, options.alphabet, Path(scratch))
            kept_ids = cut.kept_ids
            _check_same_tokens(kept_ids, bundle, options)
            report.step(cut.summary())
        special = golden_ids(checkpoint, options.calibration)
        kept, written = _write_graphs(Source(checkpoint, special), bundle, staging.path, options, report)
        tokenizer = _write_tokenizer(checkpoint, staging.path, kept_ids, report)
        info = _tokenizer_info(checkpoint, tokenizer, special, options)
        before = kept.graphs if kept else ()
        manifest = _finish(checkpoint, staging.path, (*before, *written), info, options)
        checkpoint.tokenizer.release()
        changed = {g.key: verdicts.changed_since(kept, manifest, g) for g in before} if kept else {}
        if not before or any(changed.values()):
            _remove_reports(staging.path)
        if isinstance(gate, str):
            verdict: Verdict = {g.key: Parity("not run", gate) for g in written}
            verdict = {**verdict, **_outdated(changed, gate)}
        else:
            again = _to_judge_again(before, changed, report)
            report.step(f"comparing {', '.join(g.key for g in (*again, *written))} with the reference")
            asked = replace(manifest, graphs=(*again, *written))
            companions.write_text(staging.path / MANIFEST, asked.to_json())
            verdict = gate(staging.path)
        manifest = replace(manifest, graphs=tuple(_judged(g, verdict) for g in manifest.graphs))
        companions.write_text(staging.path / MANIFEST, manifest.to_json())
        if failed := [g for g in manifest.graphs if g.parity.status == "failed"]:
            if options.keep_failed:
                staging.keep(options.keep_failed)
            raise ParityError(_failure(failed, bundle, options.keep_failed))
    return manifest


def _write_graphs(
    source: Source, bundle: Path, folder: Path, options: ExportOptions, report: Reporter
) -> tuple[Manifest | None, list[Graph]]:
    """What stays of the old bundle, and the requested graphs; the data that they share is released before the
    gate."""
    choice = None
    if options.target_cosine is not None:
        _check_same(source.checkpoint, bundle, options)
        choice = choose_composition(source, folder, options, report)
        options = replace(options, precisions=(choice.precision,))
    kept = _kept(source.checkpoint, bundle, folder, options)
    graphs = [
        write_graph(source, folder, which, options, report, choice) for which in graphs_to_write(options)
    ]
    for graph in graphs:
        if options.packages and graph.format == "litert":
            write_packages(source.checkpoint, source.special, folder, graph, options, report)
    return kept, graphs


def _kept(checkpoint: Checkpoint, bundle: Path, folder: Path, options: ExportOptions) -> Manifest | None:
    """The manifest of `bundle` with the graphs that stay when others are added; a graph that is exported
    again is first removed from `folder`."""
    old = _check_same(checkpoint, bundle, options)
    if old is None:
        return None
    replaced = graphs_to_write(options)
    for graph in (g for g in old.graphs if (g.format, g.precision) in replaced):
        remove(graph, folder)
    return replace(old, graphs=tuple(g for g in old.graphs if (g.format, g.precision) not in replaced))


def _check_same(checkpoint: Checkpoint, bundle: Path, options: ExportOptions) -> Manifest | None:
    """The manifest of the bundle that is added to; it must have the same weights and vocabulary."""
    if options.existing != "extend":
        return None
    old = load_manifest(bundle)
    if old.source.weights_sha256 != checkpoint.source.weights_sha256:
        raise ExportError(
            f"The bundle was made from other weights ({old.source.name}, {old.source.weights_sha256[:8]}…) "
            f"than this checkpoint's ({checkpoint.source.weights_sha256[:8]}…). --overwrite replaces it."
        )
    if old.tokenizer.alphabet != options.alphabet:
        raise ExportError(
            f"The bundle's vocabulary is trimmed to {old.tokenizer.alphabet}, this export's to "
            f"{options.alphabet} (None: not trimmed). Give the same --alphabet, or --overwrite."
        )
    if old.max_seq_length != checkpoint.max_seq_length:
        raise ExportError(
            f"The bundle's graphs take texts of {old.max_seq_length} tokens, this export's "
            f"{checkpoint.max_seq_length}. Give --max-length {old.max_seq_length}, or --overwrite."
        )
    if other := _computed_otherwise(old, checkpoint):
        raise ExportError(
            f"The bundle's graphs were made from the same weights, and differ from this export in {other}: "
            "they would give other vectors. Export as the bundle was, or --overwrite."
        )
    return old


def _check_same_tokens(kept_ids: NDArray[np.int64], bundle: Path, options: ExportOptions) -> None:
    """The bundle that is added to must have these tokens too: a file of characters may have changed."""
    file = bundle / KEPT_IDS
    if options.existing != "extend" or not file.is_file() or np.array_equal(np.load(file), kept_ids):
        return
    raise ExportError(
        f"The bundle's vocabulary is trimmed to other tokens than {options.alphabet} gives now: its graphs "
        "would read other texts. Give the characters that it was exported with, or --overwrite."
    )


def _computed_otherwise(old: Manifest, checkpoint: Checkpoint) -> str:
    """What decides about vectors besides weights and vocabulary, and is not as in the bundle."""
    new = describe.architecture(checkpoint)
    names = [f.name for f in fields(new) if getattr(new, f.name) != getattr(old.architecture, f.name)]
    own = {
        "stages": (old.stages, describe.stages(checkpoint)),
        "include_prompt": (old.include_prompt, checkpoint.include_prompt),
        "do_lower_case": (old.tokenizer.do_lower_case, checkpoint.do_lower_case),
    }
    return ", ".join([*names, *(name for name, (before, now) in own.items() if before != now)])


def _write_tokenizer(
    checkpoint: Checkpoint, folder: Path, kept_ids: NDArray[np.int64] | None, report: Reporter
) -> Path:
    """Write the runtime's tokenizer: the compact table, or tokenizer.json if that is not reproduced."""
    report.step("writing the tokenizer")
    (folder / KEPT_IDS).unlink(missing_ok=True)
    if kept_ids is not None:
        np.save(folder / KEPT_IDS, kept_ids.astype(np.int32))
    table = folder / TOKENIZER_TABLE
    for old in (table, folder / CONFORMANCE):
        old.unlink(missing_ok=True)
    try:
        build_table(checkpoint.tokenizer, table)
    except UnsupportedTokenizer as e:
        report.step(f"note: no compact tokenizer table, devices will need the tokenizers package. {e}")
        companions.write_text(folder / TOKENIZER_JSON, checkpoint.tokenizer.text)
        return folder / TOKENIZER_JSON
    write_conformance(checkpoint.tokenizer, folder / CONFORMANCE)
    return table


def _tokenizer_info(
    checkpoint: Checkpoint, file: Path, special: SpecialIds, options: ExportOptions
) -> TokenizerInfo:
    return TokenizerInfo(
        file.name,
        checkpoint.config.vocab_size,
        special.bos_id,
        special.eos_id,
        special.pad_id,
        checkpoint.do_lower_case,
        special.golden,
        options.alphabet,
        None if options.alphabet is None else KEPT_IDS,
        checkpoint.tokenizer.without_row,
    )


def _finish(
    checkpoint: Checkpoint,
    folder: Path,
    graphs: tuple[Graph, ...],
    tokenizer: TokenizerInfo,
    options: ExportOptions,
) -> Manifest:
    """Write everything except graphs and tokenizer, then the manifest that records all files."""
    if options.client_files:
        companions.write_client_files(
            checkpoint, folder, {g.file: folder / g.external_data[0] for g in graphs if g.format == "onnx"}
        )
    companions.write_notices(checkpoint, folder, [g.key for g in graphs])
    (folder / MANIFEST).unlink(missing_ok=True)
    architecture = describe.architecture(checkpoint)
    manifest = Manifest(
        schema_version=architecture.schema_version,
        space_id=describe.space_id(checkpoint, folder / tokenizer.file),
        source=checkpoint.source,
        versions=describe.versions(graphs),
        architecture=architecture,
        stages=describe.stages(checkpoint),
        max_seq_length=checkpoint.max_seq_length,
        embedding_dim=describe.embedding_dim(checkpoint),
        dims=describe.dims(checkpoint, options.dims),
        prompts=checkpoint.prompts,
        aliases=describe.aliases(checkpoint.prompts),
        default_prompt_name=checkpoint.default_prompt_name,
        similarity_fn_name=checkpoint.similarity_fn_name,
        tokenizer=tokenizer,
        graphs=graphs,
        files=describe.file_records(folder),
        truncate_dim=checkpoint.truncate_dim,
        include_prompt=checkpoint.include_prompt,
    )
    companions.write_text(folder / MANIFEST, manifest.to_json())
    return manifest


def _remove_reports(folder: Path) -> None:
    """Take a validation's report out of a bundle whose graphs are no longer what it was about."""
    for stale in ("parity.json", "parity.html"):
        (folder / stale).unlink(missing_ok=True)


def _to_judge_again(
    before: tuple[Graph, ...], changed: Mapping[str, str | None], report: Reporter
) -> tuple[Graph, ...]:
    """The graphs of the old bundle whose verdict does not hold in the new one; the report says why."""
    reasons = {graph.key: verdicts.reason_to_judge(graph, changed[graph.key]) for graph in before}
    for key, reason in reasons.items():
        report.step(f"{key} is compared again: {reason}" if reason else f"{key} keeps its verdict")
    return tuple(graph for graph in before if reasons[graph.key])


def _outdated(changed: Mapping[str, str | None], why_not: str) -> Verdict:
    """What stands in place of verdicts that no longer hold where nothing can be compared."""
    return {
        key: Parity("not run", f"{why_not}; it was judged before this was {what}")
        for key, what in changed.items()
        if what
    }


def _judged(graph: Graph, verdict: Verdict) -> Graph:
    return replace(graph, parity=verdict[graph.key]) if graph.key in verdict else graph


def _failure(failed: list[Graph], bundle: Path, copy: Path | None) -> str:
    lines = [f"{g.key}: {g.parity.reason}." for g in failed]
    where = (
        f"It was kept as {copy} for study." if copy else "Nothing was written; --keep-failed DIR keeps it."
    )
    return f"{bundle} was refused: it does not give the reference's vectors. {' '.join(lines)} {where}"


def summary(manifest: Manifest, bundle: Path, seconds: float) -> dict[str, object]:
    """The document that `export-embedding --json` prints."""
    return {
        "bundle": str(bundle),
        "space_id": manifest.space_id,
        "source": asdict(manifest.source),
        "seconds": round(seconds, 1),
        "bytes": sum(f.size for f in manifest.files.values()),
        "graphs": [
            {
                "graph": g.key,
                "variant_id": g.variant_id,
                "bytes": sum(BundleGraph(bundle, manifest, g).sizes.values()),
                "parity": asdict(g.parity),
            }
            for g in manifest.graphs
        ],
    }
