"""An Embedder as LlamaIndex's `BaseEmbedding`. Needs llama-index-core only when it is called."""

import asyncio
from importlib import import_module
from typing import Any

from embedding_runtime.embedder import Embedder
from embedding_runtime.errors import EngineError


def llamaindex_embedding(embedder: Embedder) -> Any:
    """A `llama_index.core` embedding that embeds queries and documents with their own prompts.

    The dimension is the Embedder's `truncate_dim`.

    Raises:
        EngineError: llama-index-core is not installed.
    """
    try:
        base: Any = import_module("llama_index.core.base.embeddings.base").BaseEmbedding
    except ImportError as e:
        raise EngineError(
            f"llama_index.core cannot be imported ({e}). Install it with: pip install llama-index-core"
        ) from e

    class EdgeEmbedding(base):  # type: ignore[misc]
        """The methods that LlamaIndex asks for."""

        def _get_query_embedding(self, query: str) -> list[float]:
            vector: list[float] = embedder.encode_query(query).tolist()
            return vector

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return await asyncio.to_thread(self._get_query_embedding, query)

        def _get_text_embedding(self, text: str) -> list[float]:
            vector: list[float] = embedder.encode_document(text).tolist()
            return vector

        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            vectors: list[list[float]] = embedder.encode_document(texts).tolist()
            return vectors

    return EdgeEmbedding(model_name=embedder.manifest.source.name)
