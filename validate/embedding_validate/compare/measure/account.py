"""Accounts of where a graph's time goes, as entries of `compare.json`, by graph, shape and threads.

`gemm_account`, which needs the package `onnx`, defines and measures an account.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

from embedding_runtime.errors import InputError
from embedding_validate.compare.document.document import AccountEntry
from embedding_validate.compare.document.shapes import Shape
from embedding_validate.compare.measure.run import Plan, Progress
from embedding_validate.compare.measure.systems import Bundle

KEYS = ("onnx/int8", "onnx/fp32")


def graphs_to_account(keys: str | None, bundles: Sequence[Bundle]) -> dict[str, Path]:
    """The graphs' files by name that `--account` asks for.

    Raises:
        InputError: a graph that is not there, or of which no account can be taken here.
    """
    named = [] if keys is None else keys.split(",")
    files = {bundle.named(g): g.path for bundle in bundles for g in bundle.graphs if g.key in named}
    have = {g.key for bundle in bundles for g in bundle.graphs if g.key in KEYS}
    if unknown := set(named) - have:
        missing = ", ".join(key or "''" for key in sorted(unknown))
        raise InputError(f"--account has {missing}; expected {' or '.join(sorted(have) or KEYS)}.")
    if named and importlib.util.find_spec("onnx") is None:
        raise InputError("--account needs the package onnx: pip install 'embedding-edge[export]'.")
    return files


def measure(
    graphs: dict[str, Path], plan: Plan, done: Sequence[AccountEntry], say: Progress
) -> Iterator[AccountEntry]:
    """An entry for every graph, number of threads and shape, those in `done` left out."""
    have = {(a.system, a.threads, a.shape) for a in done}
    for name, path in graphs.items():
        for threads in plan.threads:
            todo = [s for s in plan.shapes if (name, threads, str(s)) not in have]
            if todo:
                yield from _entries(name, path, plan, threads, todo, say)


def _entries(
    name: str, path: Path, plan: Plan, threads: int, todo: Sequence[Shape], say: Progress
) -> Iterator[AccountEntry]:
    from embedding_validate.compare.measure import gemm_account

    rate = gemm_account.peak(gemm_account.precision(path), threads)
    for shape in todo:
        say(f"account of {name} | {threads} threads | {shape}")
        figures = gemm_account.account(path, shape, threads, plan.vocab_size, rate)
        yield AccountEntry(
            system=name,
            peak_operations_per_s=rate,
            shape=figures.shape,
            threads=figures.threads,
            operations=figures.operations,
            total=figures.total,
            at_peak=figures.at_peak,
            alone=figures.alone,
            places=figures.places,
            of_peak=figures.of_peak,
        )
