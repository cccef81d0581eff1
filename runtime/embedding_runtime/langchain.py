"""An Embedder as LangChain's `Embeddings`. Needs langchain-core only when it is called."""

from importlib import import_module
from typing import Any

from embedding_runtime.embedder import Embedder
from embedding_runtime.errors import EngineError


def langchain_embeddings(embedder: Embedder) -> Any:
    """A `langchain_core.embeddings.Embeddings` that embeds queries and documents with their own prompts.

    The dimension is the Embedder's `truncate_dim`.

    Raises:
        EngineError: langchain-core is not installed.
    """
    try:
        base: Any = import_module("langchain_core.embeddings").Embeddings
    except ImportError as e:
        raise EngineError(
            f"langchain_core cannot be imported ({e}). Install it with: pip install langchain-core"
        ) from e

    class EdgeEmbeddings(base):  # type: ignore[misc]
        """The two verbs that LangChain asks for; it makes the asynchronous ones itself."""

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            """One list of numbers per text."""
            vectors: list[list[float]] = embedder.encode_document(texts).tolist()
            return vectors

        def embed_query(self, text: str) -> list[float]:
            """One list of numbers."""
            vector: list[float] = embedder.encode_query(text).tolist()
            return vector

    return EdgeEmbeddings()
