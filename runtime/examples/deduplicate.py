"""Print the lines of a file that say what no earlier line says.

Usage: python runtime/examples/deduplicate.py BUNDLE FILE [THRESHOLD]
"""

import sys
from pathlib import Path

import numpy as np

from embedding_runtime import Embedder


def main(bundle: str, file: str, threshold: str = "0.95") -> None:
    """Keep a line when its similarity to every line kept so far is below the threshold."""
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    with Embedder.load(bundle) as embedder:
        vectors = embedder.encode(lines, task="Clustering")
        rows: list[int] = []
        for row in range(len(lines)):
            scores = embedder.similarity(vectors[row], vectors[rows]) if rows else np.zeros(1)
            if scores.max() < float(threshold):
                rows.append(row)
                print(lines[row])
    print(f"{len(lines) - len(rows)} of {len(lines)} lines left out", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
