"""Lines of a file in faiss indexes of float, int8 and binary vectors, and a question to them.

Usage: python runtime/examples/store_faiss.py BUNDLE FILE INDEX QUESTION
INDEX is a folder, made on the first run. Needs: pip install faiss-cpu

faiss' conventions (1.15): METRIC_INNER_PRODUCT gives the product itself, more is nearer, and of vectors of
length 1 that is the cosine; METRIC_L2 gives squared distances. QT_8bit learns a range for each dimension from
the documents, so it is trained on all of them, and its cosines are good to 1e-3 (768 components).
IndexBinaryFlat counts the bits that differ, in bytes of numpy.packbits; dims must be multiples of 8.
IO_FLAG_MMAP_IFC maps a flat index; IO_FLAG_MMAP, which maps inverted lists, reads all of it into memory.
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
faiss: Any = import_module("faiss")


def bits(vectors: Any) -> Any:
    """Signs (N, D / 8), eight to a byte."""
    return np.packbits(vectors > 0, axis=-1)


def build(embedder: Embedder, texts: list[str], folder: Path) -> None:
    """Three indexes of the same documents; the stamp stands beside the one that gives the scores."""
    folder.mkdir()
    vectors = embedder.encode_document(texts, normalize_embeddings=True)
    dim = vectors.shape[1]
    whole = faiss.IndexFlatIP(dim)
    coded = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    coded.train(vectors)
    for name, index in (("float", whole), ("int8", coded)):
        index.add(vectors)
        faiss.write_index(index, str(folder / f"{name}.faiss"))
    signs = faiss.IndexBinaryFlat(dim)
    signs.add(bits(vectors))
    faiss.write_index_binary(signs, str(folder / "binary.faiss"))
    (folder / "texts.json").write_text(json.dumps(texts))
    write_stamp(folder / "float.faiss", make_stamp(embedder))


def search(embedder: Embedder, folder: Path, question: str) -> dict[str, list[tuple[float, int]]]:
    """Cosine and number of the best documents, by each kind of vectors."""
    check_space(folder / "float.faiss", embedder)
    query = embedder.encode_query([question], normalize_embeddings=True)
    whole = faiss.read_index(str(folder / "float.faiss"), faiss.IO_FLAG_MMAP_IFC)
    coded = faiss.read_index(str(folder / "int8.faiss"))
    signs = faiss.read_index_binary(str(folder / "binary.faiss"))
    scores, rows = whole.search(query, min(BEST, whole.ntotal))
    results = {"float": list(zip(scores[0].tolist(), rows[0].tolist(), strict=True))}
    for name, index, codes in (("int8", coded, query), ("binary", signs, bits(query))):
        keys = index.search(codes, min(CANDIDATES, whole.ntotal))[1][0]
        exact = whole.reconstruct_batch(keys) @ query[0]
        order = np.argsort(-exact, kind="stable")[:BEST]
        results[name] = [(float(exact[i]), int(keys[i])) for i in order]
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
