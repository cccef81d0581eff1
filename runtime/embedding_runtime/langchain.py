"""An Embedder as LangChain's `Embeddings`. Needs langchain-core only when it is called."""

from importlib import import_module
from typing import Any

from embedding_runtime.embedder import Embedder
from embedding_runtime.errors import EngineError


def langchain_embeddings(embedder: Embedder, *, allow_special: bool = False) -> Any:
    """A `langchain_core.embeddings.Embeddings` that embeds queries and documents with their own prompts.

    The dimension is the Embedder's `truncate_dim`; `allow_special` is the argument of `Embedder.encode`. See
    `langchain_embeddings_class.EdgeEmbeddings`, also for caches.

    Raises:
        EngineError: langchain-core is not installed.
    """
    try:
        import_module("langchain_core.embeddings")
    except ImportError as e:
        raise EngineError(
            f"langchain_core cannot be imported ({e}). Install it with: pip install langchain-core"
        ) from e
    from embedding_runtime.adaptors.langchain_embeddings_class import EdgeEmbeddings

    return EdgeEmbeddings(embedder, allow_special=allow_special)
