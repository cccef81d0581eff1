"""`python -m embedding_validate.benchmark`: a bundle's graphs beside PyTorch and peers, timed in turn.

Arguments, the result's file, and what is compared; how it is measured is `benchmark_run`'s business.
"""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from embedding_runtime.bundle import Manifest, load_manifest
from embedding_runtime.errors import EmbeddingError, InputError
from embedding_validate import benchmark_table, benchmark_worker
from embedding_validate.benchmark_run import Plan, Shape, System, measure
from embedding_validate.machine import machine, versions

SCHEMA_VERSION = 1
SHAPES = "16,64,256,512,1024,2048,8x128"
_WORKER = (sys.executable, "-m", benchmark_worker.__name__)
_PACKAGES = Path(__file__).parents[1]


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 measured, 1 vectors that are not the same model's, 2 usage or input."""
    options = _parser().parse_args(argv)
    try:
        return _run(options)
    except EmbeddingError as e:
        _say(f"benchmark: error: {e}")
        return 2


def _run(options: argparse.Namespace) -> int:
    manifest = load_manifest(options.bundle)
    load_average = os.getloadavg()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as cache:
        plan = Plan(
            _systems(options, manifest, {"XDG_CACHE_HOME": cache}),
            shapes(options.shapes, manifest.max_seq_length),
            tuple(counts(options.threads, "--threads")),
            options.rounds,
            manifest.architecture.vocab_size,
        )
        loadings, timings = measure(plan, _say)
    files = _files(manifest)
    result: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "source": manifest.source.name,
        "weights_sha256": manifest.source.weights_sha256,
        "machine": machine(),
        "versions": versions(),
        "load_average": {"before": load_average, "after": os.getloadavg()},
        "rounds": options.rounds,
        "loadings": [asdict(entry) for entry in loadings],
        "timings": [asdict(timing) for timing in timings],
        "files": files,
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for line in benchmark_table.lines(loadings, timings, files):
        _say(line)
    _say(f"wrote {options.output}")
    strangers = sorted({t.system for t in timings if not t.cosine > options.least_cosine})
    if strangers:
        _say(
            f"benchmark: error: not the same model: {', '.join(strangers)} (cosine <= {options.least_cosine})"
        )
    return 1 if strangers else 0


def _systems(
    options: argparse.Namespace, manifest: Manifest, environment: dict[str, str]
) -> tuple[System, ...]:
    """The reference first (where one is named), then the bundle's graphs, then the peers."""
    found = []
    if options.reference is not None:
        spec = {"kind": "torch", "checkpoint": options.reference}
        found.append(System("torch fp32", _WORKER, spec, environment))
    have = [g.precision for g in manifest.graphs if g.format == "onnx"]
    for precision in options.precision.split(",") if options.precision else have:
        if precision not in have:
            raise InputError(f"The bundle has no onnx graph in {precision!r}; it has {have}.")
        spec = {
            "kind": "bundle",
            "bundle": str(options.bundle),
            "precision": precision,
            "allow_failed": False,
        }
        found.append(System(f"onnx/{precision}", _WORKER, spec, environment))
    if options.per_tensor:
        spec = {"kind": "per-tensor", "graph": str(options.bundle / _file(manifest, "int8"))}
        found.append(System("onnx/int8, scale per tensor", _WORKER, spec, environment))
    return (*found, *(_peer(peer, options.reference, environment) for peer in options.peer))


def _file(manifest: Manifest, precision: str) -> str:
    for graph in manifest.graphs:
        if (graph.format, graph.precision) == ("onnx", precision):
            return graph.file
    raise InputError(f"--per-tensor needs the bundle's onnx graph in {precision!r}, which it has not.")


def _peer(asked: str, checkpoint: str | None, environment: dict[str, str]) -> System:
    """`NAME=PYTHON=SCRIPT`: a worker script run by the Python of an environment of its own."""
    name, _, command = asked.partition("=")
    python, _, script = command.partition("=")
    if not Path(python).is_file() or not Path(script).is_file():
        raise InputError(f"--peer is {asked!r}; expected NAME=PYTHON=SCRIPT with two files that exist.")
    spec = {"kind": name, "checkpoint": checkpoint}
    return System(name, (python, script), spec, {**environment, "PYTHONPATH": str(_PACKAGES)})


def _files(manifest: Manifest) -> dict[str, int]:
    """Bytes of each graph with its weights, and of the tokenizer."""
    sizes = {g.key: sum(manifest.files[f].size for f in (g.file, *g.external_data)) for g in manifest.graphs}
    return {**sizes, manifest.tokenizer.file: manifest.files[manifest.tokenizer.file].size}


def shapes(text: str, longest: int) -> tuple[Shape, ...]:
    """What `--shapes` asks for.

    Raises:
        InputError: something else than numbers, or more tokens than `longest`.
    """
    found = []
    for part in text.split(","):
        numbers = counts(part.replace("x", ","), "--shapes")
        if len(numbers) > 2 or numbers[-1] > longest:
            raise InputError(f"--shapes has {part!r}; expected TOKENS or BATCHxTOKENS, of {longest} at most.")
        found.append(Shape(numbers[0] if len(numbers) == 2 else 1, numbers[-1]))
    return tuple(found)


def counts(text: str, option: str) -> list[int]:
    """Numbers by comma.

    Raises:
        InputError: something else, or a 0; `option` is named.
    """
    parts = text.split(",")
    if not all(p.isascii() and p.isdigit() and int(p) for p in parts):
        raise InputError(f"{option} has {text!r}; expected whole numbers of at least 1.")
    return [int(p) for p in parts]


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m embedding_validate.benchmark",
        description="Time a bundle's graphs beside PyTorch and other engines: fresh processes, in turn.",
    )
    p.add_argument("bundle", metavar="BUNDLE", type=Path, help="the bundle's folder")
    p.add_argument(
        "--reference", metavar="CHECKPOINT", help="also measure PyTorch in fp32 on this checkpoint"
    )
    p.add_argument("--precision", help="graphs to measure, by comma; all of them by default")
    p.add_argument("--shapes", default=SHAPES, help="TOKENS or BATCHxTOKENS, by comma (%(default)s)")
    p.add_argument("--threads", default="1,2", help="numbers of threads, by comma (%(default)s)")
    p.add_argument("--rounds", type=int, default=5, help="blocks of runs per system and shape (%(default)s)")
    p.add_argument(
        "--per-tensor",
        action="store_true",
        help="also measure the int8 graph with one scale per tensor of activations instead of per token",
    )
    p.add_argument(
        "--peer",
        metavar="NAME=PYTHON=SCRIPT",
        action="append",
        default=[],
        help="also measure what SCRIPT serves, run by that PYTHON; may be given more than once",
    )
    p.add_argument(
        "--least-cosine",
        type=float,
        default=0.5,
        help="what differs more from the first system is another model, and the status is 1 (%(default)s)",
    )
    p.add_argument("--output", type=Path, default=Path("benchmark.json"), help="result (%(default)s)")
    return p


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
