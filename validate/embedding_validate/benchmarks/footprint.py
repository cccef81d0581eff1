"""Cold start and memory of whole processes, against budgets.

Run it with `python -m embedding_validate.benchmarks.footprint BUNDLE`. Each case is a fresh process whose
bundle files have been dropped from the page cache; for the second time of a cold start, so have the files
that the device has prepared for them. Whether the vectors are right is for `validate-embedding` to say.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from embedding_runtime.bundle import BundleGraph, bundle_graphs, load_manifest
from embedding_runtime.machine.user_cache import cache_folder
from embedding_validate.compare.measure.machine_state import drop_pages

LENGTHS = (16, 256, 2048)
# Anonymous bytes of the whole process after a text of at most that many tokens: interpreter, tokenizer,
# engine and graph, with packed weights in the device's cache; full size. A case without one is only shown.
BUDGETS: dict[str, dict[int, int]] = {
    "onnx/int8": {16: 60_000_000, 256: 70_000_000, 2048: 260_000_000},
    "onnx/int8_q4": {16: 60_000_000, 256: 70_000_000, 2048: 260_000_000},
    "onnx/int4": {16: 60_000_000, 256: 70_000_000, 2048: 300_000_000},
    "onnx/fp32": {16: 500_000_000, 256: 520_000_000, 2048: 750_000_000},
    "onnx/fp16": {16: 560_000_000, 256: 560_000_000, 2048: 760_000_000},
    "litert/int8": {16: 50_000_000, 256: 60_000_000, 2048: 150_000_000},
    "litert/int8_q4": {16: 50_000_000, 256: 60_000_000, 2048: 150_000_000},
    "litert/mixed": {16: 50_000_000, 256: 60_000_000, 2048: 150_000_000},
    "litert/int4": {16: 50_000_000, 256: 60_000_000, 2048: 150_000_000},
    "litert/fp32": {16: 50_000_000, 256: 60_000_000, 2048: 150_000_000},
}
# Seconds from the start of the process to the first vector of a query by its tokens, the median of five.
COLD_START = {"onnx/int8": {16: 0.35}, "litert/int8": {16: 0.35}}
_CHILD = """
import json, sys, time
started = time.monotonic()
import warnings
warnings.simplefilter("ignore")
from embedding_runtime import Embedder
imported = time.monotonic()
bundle, kind, precision, length = sys.argv[1:]
embedder = Embedder(bundle, format=kind, precision=precision)
opened = time.monotonic()
embedder.encode("a " * (int(length) - 3))
ended = time.monotonic()
from embedding_runtime.machine.process_memory import process_memory
memory = process_memory()
print(json.dumps({"ended": ended, "import": imported - started, "open": opened - imported,
    "first vector": ended - opened, "memory": memory and vars(memory)}))
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command: 0 within the budgets, 1 not."""
    p = argparse.ArgumentParser(prog="python -m embedding_validate.benchmarks.footprint", description=__doc__)
    p.add_argument("bundle", type=Path)
    options = p.parse_args(argv)
    over = 0
    for graph in bundle_graphs(options.bundle, load_manifest(options.bundle)):
        for length in (n for n in LENGTHS if n <= graph.max_length):
            over += _case(graph, length)
    return 1 if over else 0


def _case(graph: BundleGraph, length: int) -> bool:
    """Measure and show one case; returns whether it exceeds its budget."""
    _measured(graph, length)  # builds what the device keeps
    files = [graph.folder / name for name in graph.manifest.files]
    limit = COLD_START.get(graph.key, {}).get(length)
    medians = _median(graph, length, files, 5 if limit else 1)
    memory = medians["memory"] or {"anonymous": 0, "peak": 0}
    most = BUDGETS.get(graph.key, {}).get(length)
    parts = ", ".join(f"{k} {medians[k]:.3f}" for k in ("start of Python", "import", "open", "first vector"))
    within = f" of {limit}" if limit else "", f" of {most / 1e6:.0f}" if most else ""
    sys.stdout.write(
        f"{graph.key} {length} tokens: {medians['seconds']:.3f} s{within[0]} ({parts}); "
        f"anonymous {memory['anonymous'] / 1e6:.0f} MB{within[1]}, "
        f"peak resident {memory['peak'] / 1e6:.0f} MB\n"
    )
    if limit:
        prepared = [path for path in cache_folder().rglob("*") if path.is_file()]
        everything = _median(graph, length, [*files, *prepared], 5)
        sys.stdout.write(f"    with prepared files from the disk: {everything['seconds']:.3f} s\n")
    slow = limit is not None and medians["seconds"] > limit
    return slow or (most is not None and memory["anonymous"] > most)


def _median(graph: BundleGraph, length: int, dropped: list[Path], times: int) -> dict[str, Any]:
    """The run of median time; these files are dropped from the page cache before each run."""
    tries = []
    for _ in range(times):
        drop_pages(dropped)
        tries.append(_measured(graph, length))
    return sorted(tries, key=lambda each: float(each["seconds"]))[times // 2]


def _measured(graph: BundleGraph, length: int) -> dict[str, Any]:
    started = time.monotonic()
    which = (str(graph.folder), graph.graph.format, graph.graph.precision, str(length))
    command = [sys.executable, "-c", _CHILD, *which]
    # As an installed package has it: compiled modules are kept from one process to the next.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    times: dict[str, Any] = json.loads(done.stdout)
    times["seconds"] = times["ended"] - started
    times["start of Python"] = times["seconds"] - sum(times[k] for k in ("import", "open", "first vector"))
    return times


if __name__ == "__main__":
    sys.exit(main())
