"""Run on the board, or here for comparison: `vectors.py FOLDER OUT.npz [PRODUCT.onnx]`.

Opens every graph of FOLDER/vectors with all its checks, and writes the vectors of some texts, alone and in a
batch; with a model of one integer product, that too. Prints what it found of the CPU and the golden vectors.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from embedding_runtime import Embedder, load_manifest
from embedding_runtime.engines.onnx_session import create_session, session_options
from embedding_runtime.engines.registry import engine_module
from embedding_runtime.errors import EngineError
from embedding_runtime.machine.cpu import cpu_flags, cpu_kind

TEXTS = [
    "Which planet is known as the Red Planet?",
    "a",
    "",
    "Mars, known for its reddish appearance, is often called the Red Planet. " * 6,
    "naïve café 日本 " * 12,
    "the quick brown fox jumps over the lazy dog",
]


def main(bundle: Path, out: Path, product: Path | None) -> None:
    """See the module."""
    warnings.simplefilter("ignore")
    found: dict[str, Any] = {}
    golden: dict[str, float] = {}
    refused: list[str] = []
    for graph in load_manifest(bundle).graphs:
        if graph.format == "litert" and cpu_kind() == "arm":
            try:
                engine_module(graph.format)
            except EngineError as e:
                refused.append(str(e))
                continue
        with Embedder(
            bundle, format=graph.format, precision=graph.precision, threads=1, verify="always"
        ) as embedder:
            found[graph.key] = np.stack([embedder.encode(text) for text in TEXTS])
            found[f"{graph.key} batch"] = embedder.encode(TEXTS)
            golden[graph.key] = embedder.check_golden()
    if product is not None:
        session = create_session(product, session_options(1), product)
        values = np.random.default_rng(0).integers(0, 256, (70, 768)).astype(np.uint8)
        found["product"] = session.run(None, {"x": values})[0]
    np.savez(out, **found)
    sys.stdout.write(
        json.dumps({"flags": sorted(cpu_flags()), "cpu": cpu_kind(), "golden": golden, "refused": refused})
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)
