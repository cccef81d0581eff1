"""Typical calls, for type checkers to read: mypy with all the tests, pyright in `test_typed_api`.

Nothing here runs.
"""

from collections.abc import Iterator
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

from embedding_runtime import (
    BundleError,
    Embedder,
    EmbeddingError,
    SimilarityFunction,
    quantization_ranges,
    quantize_embeddings,
    semantic_search,
)


def load() -> Embedder:
    """Every argument of loading."""
    try:
        return Embedder.load("bundle", precision="int8", threads=2, truncate_dim=256, overflow="chunk")
    except BundleError as error:
        raise SystemExit(str(error)) from error
    except EmbeddingError:
        return Embedder("bundle", device="cpu", similarity_fn_name="dot", default_prompt_name="STS")


def encode(embedder: Embedder) -> NDArray[Any]:
    """One text, many texts, prompts, dimensions, titles."""
    one = embedder.encode("text")
    many = embedder.encode(["a", "b"], batch_size=8, normalize_embeddings=True, show_progress_bar=False)
    query = embedder.encode_query("Which planet is red?", dim=256)
    documents = embedder.encode_document(["Mars ..."], titles=["Mars"], truncate_dim=256)
    embedder.encode((line for line in ["a"]), task="Clustering", overflow="error", allow_special=True)
    embedder.encode("text", prompt_name="STS", precision="ubinary")
    assert_type(one, NDArray[Any])
    assert_type(many, NDArray[Any])
    assert_type(documents, NDArray[Any])
    return embedder.similarity(query, documents)


def other_results(embedder: Embedder) -> None:
    """Token embeddings and features are another type."""
    for tokens in embedder.encode(["a"], output_value="token_embeddings"):
        print(len(tokens))
    ids = embedder.tokenize(["a"])["input_ids"]
    assert_type(ids, NDArray[np.int64])


def stream(embedder: Embedder, lines: Iterator[str]) -> float:
    """Vectors as they come."""
    total = 0.0
    for index, vector in embedder.encode_iter(lines, prompt_name="document"):
        total += index * float(vector.sum())
    return total


def search(embedder: Embedder) -> list[tuple[int, float]]:
    """Search, and vectors stored as int8."""
    corpus = embedder.encode_document(["a", "b"])
    ranges = quantization_ranges(corpus)
    small = quantize_embeddings(corpus[0], "int8", ranges=ranges)
    print(small.dtype, SimilarityFunction.COSINE, embedder.similarity_pairwise(corpus, corpus))
    hits = semantic_search(embedder.encode_query("a"), corpus, top_k=1)
    return [(hit["corpus_id"], hit["score"]) for hit in hits[0]]


def lifetime() -> None:
    """A with block, properties."""
    with Embedder.load("bundle") as embedder:
        embedder.max_seq_length = 512
        embedder.similarity_fn_name = "euclidean"
        with embedder.truncate_embeddings(128):
            print(embedder.get_embedding_dimension(), embedder.prompts["query"], embedder.manifest.space_id)
