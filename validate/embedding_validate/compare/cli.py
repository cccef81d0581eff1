"""`compare-embedding`: measures bundles' graphs, beside other tools, to find the file for a device.

This file has the arguments and the order of steps; `measure.run` measures, `report.text` and `report.page`
present.
"""

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from embedding_runtime.bundle import BundleGraph
from embedding_runtime.console import INTERRUPTED, run_command
from embedding_runtime.doctor.machine import examine_machine
from embedding_runtime.errors import InputError
from embedding_validate.compare import predictions
from embedding_validate.compare.corpus import corpus
from embedding_validate.compare.corpus import run as corpus_run
from embedding_validate.compare.corpus.corpus import Corpus
from embedding_validate.compare.document import agreement, phone_logs
from embedding_validate.compare.document import store as compare_store
from embedding_validate.compare.document.document import (
    BundleEntry,
    Document,
    LeftOut,
    LoadAverage,
    PeerEntry,
    Run,
    RunMachine,
    RunPlan,
)
from embedding_validate.compare.document.shapes import LENGTHS, Shape, count, counts, seconds, shapes, up_to
from embedding_validate.compare.document.store import Store
from embedding_validate.compare.measure import account as compare_account
from embedding_validate.compare.measure import run as compare_run
from embedding_validate.compare.measure import systems as compare_systems
from embedding_validate.compare.measure import worker as compare_worker
from embedding_validate.compare.measure.process import NO_ANSWER
from embedding_validate.compare.measure.run import Plan
from embedding_validate.compare.measure.systems import Bundle, Candidate, Original
from embedding_validate.compare.report import text as compare_text
from embedding_validate.compare.report.write import write_reports
from embedding_validate.files import make_folder, replace_text
from embedding_validate.machine import machine, versions

_CACHE = "cache"
_NOTHING: Mapping[str, str] = MappingProxyType({})


def main(argv: list[str] | None = None, left_out: Mapping[str, str] = _NOTHING) -> int:
    """Run the command; 0 done, 1 a graph or a disk failed, 2 usage or input, 130 interrupted.

    `left_out` names the systems that a caller could not set up, with the reasons; the results repeat it.
    """
    arguments = sys.argv[1:] if argv is None else argv
    return run_command("compare-embedding", lambda: compare(arguments, left_out))


def compare(arguments: list[str], left_out: Mapping[str, str] = _NOTHING) -> int:
    """The command's body; returns its status, and raises the errors that `main` reports.

    Raises:
        EmbeddingError: the input or an option cannot be used.  OSError: a file cannot be read or written.
    """
    options = _parser().parse_args(arguments)
    if options.output is None:
        raise InputError("--output DIR is required: the folder for the results.")
    if options.merge:
        return _merge(options.merge, options.output)
    if options.bf16 and not options.reference:
        raise InputError("--bf16 is about PyTorch. Add --reference CHECKPOINT.")
    return _compare(options, ["compare-embedding", *arguments], left_out)


def _compare(options: argparse.Namespace, command: list[str], left_out: Mapping[str, str]) -> int:
    if not options.bundles:
        raise InputError("Give one or more bundles, or --merge FILES.")
    bundles = compare_systems.read_bundles(options.bundles)
    texts = corpus.read(options.corpus) if options.corpus else None
    cache = options.output.absolute() / _CACHE
    original = _original(options, bundles)
    candidates = _candidates(options, bundles, original, cache)
    plan = replace(
        _plan(options, bundles, original, candidates),
        texts=compare_systems.accuracy_texts(candidates, bundles, texts.documents if texts else ()),
    )
    accounts = compare_account.graphs_to_account(options.account, bundles)
    graphs = _graphs(bundles, candidates) if options.predict else {}
    predictions.check(graphs)
    run = _run(command, bundles, candidates, plan)
    run = replace(run, left_out=tuple(LeftOut(name, why) for name, why in left_out.items()))
    store = Store(options.output, run, resume=options.resume)
    try:
        rates = predictions.Rates(graphs, plan.threads)
        _measure(store, plan, bundles, candidates, texts, rates)
        for entry in compare_account.measure(accounts, plan, store.run.accounts, _say):
            store.add_account(entry)
        if graphs:
            _predict(store, graphs, plan, rates)
        _finish(store)
        shutil.rmtree(cache, ignore_errors=True)
        (options.output / compare_store.BASE).unlink(missing_ok=True)
    except KeyboardInterrupt:
        _say(f"interrupted; resume with: {shlex.join([*command, '--resume'])}")
        _show(options.output, compare_store.load(options.output / compare_store.JSON))
        return INTERRUPTED
    _show(options.output, compare_store.load(options.output / compare_store.JSON))
    return 1 if compare_text.ours_failed(store.run) else 0


def _measure(
    store: Store,
    plan: Plan,
    bundles: Sequence[Bundle],
    candidates: Sequence[Candidate],
    texts: Corpus | None,
    rates: predictions.Rates,
) -> None:
    """Measure tokenizers, openings, cases and corpus, except what the store already has; and rates between
    the cases."""
    have = {c.key for c in store.run.tokenizers}
    subjects = [compare_systems.tokenizer(b) for b in bundles]
    for case in compare_run.alone(plan, subjects, have, _say):
        store.add_tokenizer(case)
    for folder in (c.about.converted for c in candidates if isinstance(c.about, PeerEntry)):
        Path(folder).mkdir(parents=True, exist_ok=True)
    opened = {o.system for o in store.run.openings}
    for opening in compare_run.openings(plan, store.base, opened, _say):
        if opening.system in plan.bases.values():
            store.keep_base()
        store.add_opening(opening)
    store.change(sizes={c.subject.name: compare_systems.size_of(c) for c in candidates})
    done = {c.key for c in store.run.cases}
    silent = {o.system for o in store.run.openings if o.status == NO_ANSWER}
    for case in compare_run.cases(plan, done, silent, _say):
        store.add_case(case)
        rates.take_if_due()
    if texts is not None and store.run.corpus is None:
        dims: dict[str, set[int]] = {}
        for manifest in (b.manifest for b in bundles):
            dims.setdefault(manifest.space_id, set()).update(manifest.dims)
        hung = silent | {c.system for c in store.run.cases if c.status == NO_ANSWER}
        answering = [c for c in candidates if c.subject.name not in hung]
        store.change(corpus=corpus_run.measure(texts, answering, dims, _say))


def _graphs(bundles: Sequence[Bundle], candidates: Sequence[Candidate]) -> dict[str, BundleGraph]:
    """Those that are compared, by their names in the comparison."""
    compared = {c.subject.name for c in candidates}
    return {name: g for b in bundles for g in b.graphs if (name := b.named(g)) in compared}


def _predict(store: Store, graphs: Mapping[str, BundleGraph], plan: Plan, rates: predictions.Rates) -> None:
    _say("predicting")
    rates.take()
    devices = rates.typical()
    lengths = [shape.tokens for shape in plan.shapes if shape.batch == 1]
    store.change(devices=devices, predictions=tuple(predictions.predict(graphs, lengths, devices)))


def _finish(store: Store) -> None:
    load = replace(store.run.load_average, after=_load_average())
    store.change(finished=_now(), complete=True, load_average=load)


def _original(options: argparse.Namespace, bundles: Sequence[Bundle]) -> Original | None:
    if not options.reference:
        return None
    compare_systems.require_torch()
    return compare_systems.read_original(options.reference, bundles)


def _candidates(
    options: argparse.Namespace, bundles: Sequence[Bundle], original: Original | None, cache: Path
) -> list[Candidate]:
    keys = None if options.graphs is None else options.graphs.split(",")
    candidates = compare_systems.of_bundles(bundles, keys, cache)
    if options.per_tensor:
        candidates += [compare_systems.per_tensor(bundle) for bundle in bundles]
    if original:
        dtypes = compare_worker.DTYPES if options.bf16 else compare_worker.DTYPES[:1]
        longest = max(b.manifest.max_seq_length for b in bundles)
        candidates += [compare_systems.torch(original, dtype, longest) for dtype in dtypes]
    candidates += [compare_systems.peer(argument, original, bundles) for argument in options.peer]
    if len({c.subject.name for c in candidates}) < len(candidates):
        raise InputError("Two systems have the same name. Give each --peer a name of its own.")
    return candidates


def _plan(
    options: argparse.Namespace,
    bundles: Sequence[Bundle],
    original: Original | None,
    candidates: Sequence[Candidate],
) -> Plan:
    longest = min(b.manifest.max_seq_length for b in bundles)
    usual = up_to(LENGTHS, [b.manifest for b in bundles])
    requested = shapes(usual if options.lengths is None else options.lengths, longest)
    batches = counts(options.batch, "--batch")
    crossed = [Shape(b, s.tokens) if s.batch == 1 else s for b in batches for s in requested]
    return Plan(
        subjects=tuple(c.subject for c in candidates),
        shapes=tuple(dict.fromkeys(crossed)),
        threads=tuple(counts(options.threads, "--threads")),
        reference=compare_systems.first_choice(candidates, bundles),
        bases=compare_systems.accuracy_bases(candidates, bundles),
        rounds=options.rounds,
        seconds=options.seconds,
        limit=options.limit,
        vocab_size=compare_systems.shared_vocab_size(bundles, original),
    )


def _run(command: list[str], bundles: Sequence[Bundle], candidates: Sequence[Candidate], plan: Plan) -> Run:
    this_machine = machine()
    first, *others = compare_systems.by_model(candidates).values()
    examined = {name: value for name, value in asdict(examine_machine()).items() if name != "cache"}
    return Run(
        label=this_machine["cpu"] if examined["board"] == this_machine["architecture"] else examined["board"],
        origin="measured",
        started=_now(),
        finished=None,
        complete=False,
        command=shlex.join(command),
        plan=RunPlan(
            systems=tuple(s.name for s in plan.subjects),
            shapes=tuple(str(s) for s in plan.shapes),
            threads=plan.threads,
            reference=plan.reference,
            base=compare_systems.most_exact(first),
            rounds=plan.rounds,
            seconds=plan.seconds,
            limit=plan.limit,
            bases=dict(plan.bases) if others else None,
        ),
        machine=RunMachine(**{**this_machine, **examined}),
        versions=versions(),
        load_average=LoadAverage(_load_average(), None),
        bundles=tuple(_bundle(b) for b in bundles),
        systems=tuple(c.about for c in candidates),
    )


def _load_average() -> tuple[float, ...]:
    return tuple(round(x, 2) for x in os.getloadavg())


def _bundle(bundle: Bundle) -> BundleEntry:
    source, architecture = bundle.manifest.source, bundle.manifest.architecture
    return BundleEntry(
        path=str(bundle.path),
        source=source.name,
        weights_sha256=source.weights_sha256,
        space_id=bundle.manifest.space_id,
        parameters=architecture.parameters,
        random_weights=source.random_weights,
        dim=bundle.manifest.embedding_dim,
    )


def _merge(paths: Sequence[Path], output: Path) -> int:
    document = agreement.marked(compare_store.merge([_runs(path) for path in paths]))
    make_folder(output)
    replace_text(output / compare_store.JSON, compare_store.dumps(document))
    _show(output, document)
    return 0


def _runs(path: Path) -> Document:
    """The runs of a comparison, of another tool's log, or of a file of published figures."""
    try:
        return compare_store.load(path)
    except compare_store.SchemaError:
        raise
    except InputError:
        if not path.is_file():
            raise
        return Document(tuple(phone_logs.read(path)))


def _show(output: Path, document: Document) -> None:
    """Write the document for people: always as text, and as a page if its extra is installed."""
    for line in write_reports(output, document):
        _say(line)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="compare-embedding",
        description="Measure the graphs of bundles on this machine, each case in a fresh process: size, "
        "loading, latency, memory, accuracy. Writes compare.json, compare.md and compare.html.",
        epilog="Exit status: 0 done, 1 a graph of a bundle failed or is wrong, or a disk failed, "
        "2 usage or input, 130 interrupted.",
    )
    p.add_argument("bundles", metavar="BUNDLE", nargs="*", type=Path, help="folders of export-embedding")
    p.add_argument("--output", metavar="DIR", type=Path, help="folder for the results")
    what = p.add_argument_group("what is measured")
    what.add_argument(
        "--graphs", metavar="KEYS", help="comma-separated, e.g. onnx/int8,litert/int8 (default: all)"
    )
    what.add_argument(
        "--threads", metavar="LIST", default="1,2", help="comma-separated (default: %(default)s)"
    )
    what.add_argument(
        "--lengths",
        metavar="LIST",
        help=f"tokens, comma-separated, or 8x128 (default: {LENGTHS}, up to the bundles' length)",
    )
    what.add_argument("--batch", metavar="LIST", default="1", help="texts at once (default: %(default)s)")
    what.add_argument(
        "--corpus",
        metavar="FILE",
        type=Path,
        help="also what each graph, dim and vector precision costs on your texts: one document per line, or "
        "JSON, CSV, TSV or Parquet with text, or with query and document",
    )
    what.add_argument("--reference", metavar="CHECKPOINT", help="also PyTorch in fp32 on this folder")
    what.add_argument("--bf16", action="store_true", help="and in bfloat16")
    what.add_argument(
        "--peer",
        metavar="NAME=PYTHON=SCRIPT",
        action="append",
        default=[],
        help="also what SCRIPT serves, run by that PYTHON; can be repeated",
    )
    what.add_argument(
        "--per-tensor",
        action="store_true",
        help="also onnx/int8 with one scale per tensor of activations instead of per token",
    )
    what.add_argument(
        "--account",
        metavar="KEYS",
        help="also where the time of these graphs goes (onnx/int8, onnx/fp32), and how far they are from "
        "this CPU's rate of matrix products",
    )
    what.add_argument(
        "--predict",
        action="store_true",
        help="also what each graph should take: its work, counted in its file, at the rates that a second of "
        "measuring finds on this device",
    )
    how = p.add_argument_group("how")
    how.add_argument(
        "--rounds",
        metavar="N",
        type=count,
        default=5,
        help="turns with the reference case (default: %(default)s)",
    )
    how.add_argument(
        "--seconds",
        metavar="S",
        type=seconds,
        default=0.8,
        help="to run each case for, about (default: %(default)s)",
    )
    how.add_argument(
        "--limit",
        metavar="S",
        type=seconds,
        default=300,
        help="seconds after which a system that has not answered is stopped (default: %(default)s)",
    )
    how.add_argument("--resume", action="store_true", help="resume an interrupted run in DIR")
    other = p.add_argument_group("instead")
    other.add_argument(
        "--merge",
        metavar="FILE",
        nargs="+",
        type=Path,
        help="merge results, and logs of phones' tools, into one page",
    )
    return p


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
