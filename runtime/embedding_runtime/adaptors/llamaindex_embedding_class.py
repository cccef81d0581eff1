"""The class that `llamaindex` returns, at the top level of a module so that it can be pickled.

Importing this needs llama-index-core.
"""

import asyncio
from importlib import import_module
from typing import Any

from embedding_runtime.adaptors.identity import identity
from embedding_runtime.embedder import Embedder
from embedding_runtime.errors import InputError

_BaseEmbedding: Any = import_module("llama_index.core.base.embeddings.base").BaseEmbedding
_pydantic: Any = import_module("pydantic")


class EdgeEmbedding(_BaseEmbedding):  # type: ignore[misc]
    """The methods that LlamaIndex requires. Its serialized form holds everything that its vectors depend on.

    So an IngestionPipeline's cache keeps dimensions, graphs and prompts apart. `embeddings_cache`, which is
    keyed by text alone, is refused.
    """

    _embedder: Embedder = _pydantic.PrivateAttr()
    _allow_special: bool = _pydantic.PrivateAttr()

    def __init__(self, embedder: Embedder, *, allow_special: bool = False, **fields: Any) -> None:
        """`fields` are those of BaseEmbedding, such as `embed_batch_size`.

        Raises:
            InputError: `embeddings_cache` is one of them.
        """
        _check_cache(fields.get("embeddings_cache"))
        super().__init__(**{"model_name": embedder.manifest.source.name, **fields})
        self._embedder, self._allow_special = embedder, allow_special

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "embeddings_cache":
            _check_cache(value)
        super().__setattr__(name, value)

    @classmethod
    def class_name(cls) -> str:
        """The class name that LlamaIndex stores."""
        return "EdgeEmbedding"

    @_pydantic.model_serializer(mode="wrap")  # type: ignore[untyped-decorator]
    def custom_model_dump(self, handler: Any, info: Any) -> dict[str, Any]:
        """The fields, and everything that the vectors depend on."""
        fields = identity(self._embedder, self._allow_special)
        return {**handler(self), **fields, "class_name": self.class_name()}

    def _get_query_embedding(self, query: str) -> list[float]:
        vector: list[float] = self._embedder.encode_query(query, allow_special=self._allow_special).tolist()
        return vector

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._embedder.encode_document(
            texts, allow_special=self._allow_special
        ).tolist()
        return vectors


def _check_cache(cache: Any) -> None:
    if cache is not None:
        raise InputError(
            "embeddings_cache is keyed by text alone: a query would get the vector of a document with the "
            "same text, or that of another dimension. Use IngestionPipeline(cache=IngestionCache())."
        )
