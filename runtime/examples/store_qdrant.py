"""Lines of a file in Qdrant's local mode, as float, int8 and binary vectors, and a question to them.

Usage: python runtime/examples/store_qdrant.py BUNDLE FILE INDEX QUESTION
INDEX is a folder, made on the first run; a server takes url= for path=. Needs: pip install qdrant-client

Qdrant's conventions (client 1.20): COSINE scores are cosines, more is nearer, of vectors that it has divided
by their length. Quantization belongs to a vector: the server searches codes, fetches `oversampling` times as
many candidates and scores them anew with the float vectors. The local mode takes all of that, keeps none of
it and searches the float vectors exactly: it is for tests and small sets, and says nothing of what
quantization costs. The stamp is metadata of the collection.
"""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from embedding_runtime import Embedder, check_space, make_stamp

BEST, TIMES, COLLECTION = 3, 10.0, "documents"
models: Any = import_module("qdrant_client.models")


def connect(folder: str) -> Any:
    """The store in a folder."""
    return import_module("qdrant_client").QdrantClient(path=folder)


def build(client: Any, embedder: Embedder, texts: list[str]) -> None:
    """A collection with a vector of each kind."""
    vectors = embedder.encode_document(texts, normalize_embeddings=True)
    scalar = models.ScalarQuantization(scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8))
    binary = models.BinaryQuantization(binary=models.BinaryQuantizationConfig())
    kinds = {"float": None, "int8": scalar, "binary": binary}
    client.create_collection(
        COLLECTION,
        vectors_config={
            name: models.VectorParams(
                size=vectors.shape[1], distance=models.Distance.COSINE, quantization_config=config
            )
            for name, config in kinds.items()
        },
        metadata=json.loads(make_stamp(embedder).to_json()),
    )
    points = [
        models.PointStruct(id=i, vector=dict.fromkeys(kinds, vectors[i].tolist()), payload={"text": text})
        for i, text in enumerate(texts)
    ]
    client.upload_points(COLLECTION, points, wait=True)


def search(client: Any, embedder: Embedder, question: str) -> dict[str, list[tuple[float, str]]]:
    """Cosine and text of the best documents, by each kind of vectors."""
    check_space(client.get_collection(COLLECTION).config.metadata, embedder)
    query = embedder.encode_query(question, normalize_embeddings=True).tolist()
    rescored = models.QuantizationSearchParams(rescore=True, oversampling=TIMES)
    results = {}
    for name in ("float", "int8", "binary"):
        params = None if name == "float" else models.SearchParams(quantization=rescored)
        hits = client.query_points(COLLECTION, query, using=name, limit=BEST, search_params=params).points
        results[name] = [(hit.score, hit.payload["text"]) for hit in hits]
    return results


def main(bundle: str, file: str, index: str, question: str) -> None:
    """Print the best lines, by each kind of vectors."""
    new = not Path(index).exists()
    client = connect(index)
    with Embedder.load(bundle) as embedder:
        if new:
            build(client, embedder, Path(file).read_text(encoding="utf-8").splitlines())
        for name, hits in search(client, embedder, question).items():
            for score, text in hits:
                print(f"{name} {score:.4f} {text}")
    client.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
