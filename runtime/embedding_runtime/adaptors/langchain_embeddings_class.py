"""The class that `langchain` returns, at the top level of a module so that it can be pickled.

Importing this needs langchain-core.
"""

import hashlib
import json
from importlib import import_module
from typing import Any, Literal

from embedding_runtime.adaptors.identity import identity
from embedding_runtime.embedder import Embedder

_Embeddings: Any = import_module("langchain_core.embeddings").Embeddings


class EdgeEmbeddings(_Embeddings):  # type: ignore[misc]
    """The two methods that LangChain requires; LangChain derives the asynchronous ones itself."""

    def __init__(self, embedder: Embedder, *, allow_special: bool = False) -> None:
        self.embedder = embedder
        self.allow_special = allow_special

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One list of numbers per text."""
        vectors: list[list[float]] = self.embedder.encode_document(
            texts, allow_special=self.allow_special
        ).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """One list of numbers."""
        vector: list[float] = self.embedder.encode_query(text, allow_special=self.allow_special).tolist()
        return vector

    @property
    def identity(self) -> dict[str, Any]:
        """The values that the vectors depend on: space, graph, dimension, prompts ..."""
        return identity(self.embedder, self.allow_special)

    def namespace(self, side: Literal["query", "document"]) -> str:
        """A name for caches that are keyed by text alone, such as CacheBackedEmbeddings; queries and
        documents have different names.

        Give queries a store of their own, never `query_embedding_cache=True`: a query would get the vector of
        a document with the same text.
        """
        text = json.dumps({**self.identity, "side": side}, sort_keys=True)
        return f"{side}-{hashlib.sha256(text.encode()).hexdigest()[:24]}"

    def __repr__(self) -> str:
        return f"EdgeEmbeddings({self.identity})"
