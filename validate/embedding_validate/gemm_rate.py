"""`python -m embedding_validate.gemm_rate`: a bundle's graph against this CPU's rate of matrix products.

Arguments and the result's file; what is measured is `gemm_account`'s business.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from embedding_runtime.bundle import Graph, load_manifest
from embedding_runtime.errors import EmbeddingError, InputError
from embedding_validate.benchmark import SHAPES, counts, shapes
from embedding_validate.gemm_account import Account, account, lines, peak
from embedding_validate.machine import machine, versions

SCHEMA_VERSION = 1


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 measured, 2 usage or input."""
    options = _parser().parse_args(argv)
    try:
        return _run(options)
    except EmbeddingError as e:
        _say(f"gemm_rate: error: {e}")
        return 2


def _run(options: argparse.Namespace) -> int:
    manifest = load_manifest(options.bundle)
    graph = _graph(manifest.graphs, options.precision)
    path, vocabulary = options.bundle / graph.file, manifest.architecture.vocab_size
    peaks: dict[str, float] = {}
    accounts: list[Account] = []
    for threads in counts(options.threads, "--threads"):
        peaks |= {f"{kind}, {threads} threads": peak(kind, threads) for kind in ("int8", "fp32")}
        rate = peaks[f"{'int8' if graph.precision == 'int8' else 'fp32'}, {threads} threads"]
        for shape in shapes(options.shapes, manifest.max_seq_length):
            _say(f"{shape} tokens, {threads} threads")
            accounts.append(account(path, shape, threads, vocabulary, rate))
    result = {
        "schema_version": SCHEMA_VERSION,
        "graph": graph.key,
        "machine": machine(),
        "versions": versions(),
        "peak_operations_per_s": peaks,
        "accounts": [{**asdict(a), "of_peak": a.of_peak} for a in accounts],
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for line in [*lines(accounts, peaks), f"wrote {options.output}"]:
        _say(line)
    return 0


def _graph(graphs: tuple[Graph, ...], precision: str) -> Graph:
    for graph in graphs:
        if (graph.format, graph.precision) == ("onnx", precision):
            return graph
    raise InputError(f"The bundle has no onnx graph in {precision!r}; it has {[g.key for g in graphs]}.")


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m embedding_validate.gemm_rate",
        description="Where a graph's time goes, and what its products would take at this CPU's best rate.",
    )
    p.add_argument("bundle", metavar="BUNDLE", type=Path, help="the bundle's folder")
    p.add_argument("--precision", choices=("int8", "fp32"), default="int8", help="the graph (%(default)s)")
    p.add_argument("--shapes", default=SHAPES, help="TOKENS or BATCHxTOKENS, by comma (%(default)s)")
    p.add_argument("--threads", default="1,2", help="numbers of threads, by comma (%(default)s)")
    p.add_argument("--output", type=Path, default=Path("gemm_rate.json"), help="result (%(default)s)")
    return p


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
