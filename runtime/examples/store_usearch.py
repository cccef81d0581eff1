"""Lines of a file in usearch indexes of float, int8 and binary vectors, and a question to them.

Usage: python runtime/examples/store_usearch.py BUNDLE FILE INDEX QUESTION
INDEX is a folder, made on the first run. Needs: pip install usearch

usearch's conventions (2.26): metric "cos" gives 1 - cosine, "hamming" the number of bits that differ.
dtype "i8" scales float vectors to length 127, which uses 45 of the 255 codes at 768 components; int8 arrays,
scaled by each vector's own largest component, are kept as they are, at a tenth of the error. Bits are packed
by numpy.packbits; their order does not matter to the distance, as long as both sides have the same.
The small indexes find candidates, the float index is mapped from its file and gives the scores.
"""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from embedding_runtime import Embedder, check_space, make_stamp, write_stamp

BEST, CANDIDATES = 3, 30


def usearch_index() -> Any:
    """The class of usearch. The import is late: if usearch 2.26 is imported before the engine, the engine
    crashes."""
    return import_module("usearch.index").Index


def int8_codes(vectors: Any) -> Any:
    """Codes (N, D) from -127 to 127; the cosine needs no scale kept beside them."""
    return np.rint(127 * vectors / np.abs(vectors).max(axis=-1, keepdims=True)).astype(np.int8)


def bits(vectors: Any) -> Any:
    """Signs (N, D / 8), eight to a byte."""
    return np.packbits(vectors > 0, axis=-1)


def build(embedder: Embedder, texts: list[str], folder: Path) -> None:
    """Three indexes of the same documents; the stamp stands beside the one that gives the scores."""
    folder.mkdir()
    vectors = embedder.encode_document(texts, normalize_embeddings=True)
    kinds = {
        "float": ("cos", "f32", vectors),
        "int8": ("cos", "i8", int8_codes(vectors)),
        "binary": ("hamming", "b1", bits(vectors)),
    }
    for name, (metric, dtype, rows) in kinds.items():
        index = usearch_index()(ndim=vectors.shape[1], metric=metric, dtype=dtype)
        index.add(np.arange(len(texts)), rows)
        index.save(str(folder / f"{name}.usearch"))
    (folder / "texts.json").write_text(json.dumps(texts))
    write_stamp(folder / "float.usearch", make_stamp(embedder))


def search(embedder: Embedder, folder: Path, question: str) -> dict[str, list[tuple[float, int]]]:
    """Cosine and number of the best documents, by each kind of vectors."""
    check_space(folder / "float.usearch", embedder)
    query = embedder.encode_query(question, normalize_embeddings=True)
    whole = usearch_index().restore(str(folder / "float.usearch"), view=True)
    results = {"float": [(1 - m.distance, int(m.key)) for m in whole.search(query, BEST)]}
    for name, codes in (("int8", int8_codes(query)), ("binary", bits(query))):
        index = usearch_index().restore(str(folder / f"{name}.usearch"), view=True)
        keys = index.search(codes, CANDIDATES).keys
        scores = np.asarray(whole.get(keys)) @ query
        order = np.argsort(-scores, kind="stable")[:BEST]
        results[name] = [(float(scores[i]), int(keys[i])) for i in order]
    return results


def main(bundle: str, file: str, index: str, question: str) -> None:
    """Print the best lines, by each kind of vectors."""
    with Embedder.load(bundle) as embedder:
        if not Path(index).exists():
            build(embedder, Path(file).read_text(encoding="utf-8").splitlines(), Path(index))
        texts = json.loads((Path(index) / "texts.json").read_text())
        for name, hits in search(embedder, Path(index), question).items():
            for score, number in hits:
                print(f"{name} {score:.4f} {texts[number]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
