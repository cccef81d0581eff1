"""Embeds a corpus with one graph, through the public `Embedder`, in a process of its own.

    python -m embedding_validate.compare.corpus.worker '{"bundle": ..., "format": ..., "precision": ...,
        "threads": ..., "corpus": FILE, "output": FILE.npz, "allow_failed": false}'

Queries go through `encode_query`, documents through `encode_document`.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_runtime import Embedder
from embedding_runtime.errors import EmbeddingWarning
from embedding_validate.compare.corpus import corpus


def main() -> None:
    """Write `documents` (N, D) and `asked` (Q, D)."""
    spec = json.loads(sys.argv[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmbeddingWarning)
        vectors = embedded(spec, corpus.read(Path(spec["corpus"])))
    np.savez(spec["output"], **vectors)  # type: ignore[arg-type]


def embedded(spec: dict[str, Any], texts: corpus.Corpus) -> dict[str, NDArray[np.float32]]:
    """Vectors of a corpus by a graph."""
    with Embedder.load(
        spec["bundle"],
        format=spec["format"],
        precision=spec["precision"],
        threads=spec["threads"],
        allow_failed=spec["allow_failed"],
    ) as embedder:
        embedder.truncate_dim = None
        documents = embedder.encode_document(list(texts.documents), normalize_embeddings=True)
        if texts.relevant is None:
            return {"documents": documents, "asked": documents[: len(texts.asked)]}
        queries = embedder.encode_query(list(texts.queries), normalize_embeddings=True)
        return {"documents": documents, "asked": queries}


if __name__ == "__main__":
    main()
