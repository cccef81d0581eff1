"""An Embedder as LlamaIndex's `BaseEmbedding`. Needs llama-index-core only when it is called."""

from importlib import import_module
from typing import Any

from embedding_runtime.embedder import Embedder
from embedding_runtime.errors import EngineError


def llamaindex_embedding(embedder: Embedder, *, allow_special: bool = False) -> Any:
    """A `llama_index.core` embedding that embeds queries and documents with their own prompts.

    The dimension is the Embedder's `truncate_dim`; `allow_special` is the argument of `Embedder.encode`. See
    `llamaindex_embedding_class.EdgeEmbedding`.

    Raises:
        EngineError: llama-index-core is not installed.
    """
    try:
        import_module("llama_index.core.base.embeddings.base")
    except ImportError as e:
        raise EngineError(
            f"llama_index.core cannot be imported ({e}). Install it with: pip install llama-index-core"
        ) from e
    from embedding_runtime.adaptors.llamaindex_embedding_class import EdgeEmbedding

    return EdgeEmbedding(embedder, allow_special=allow_special)
