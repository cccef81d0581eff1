"""The LangChain and LlamaIndex adaptors give the Embedder's vectors; what is not installed is named."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from embedding_runtime import Embedder, EngineError
from embedding_runtime.langchain import langchain_embeddings
from embedding_runtime.llamaindex import llamaindex_embedding

TEXTS = ["the red planet", "a stone"]


@pytest.fixture(scope="module")
def embedder(tiny_bundle: Path) -> Iterator[Embedder]:
    with Embedder(tiny_bundle, threads=1) as opened:
        yield opened


def test_langchain(embedder: Embedder) -> None:
    embeddings = pytest.importorskip("langchain_core.embeddings")
    adaptor = langchain_embeddings(embedder)
    assert isinstance(adaptor, embeddings.Embeddings)
    np.testing.assert_allclose(adaptor.embed_documents(TEXTS), embedder.encode_document(TEXTS), atol=1e-6)
    np.testing.assert_allclose(adaptor.embed_query("red"), embedder.encode_query("red"), atol=1e-6)
    assert adaptor.embed_documents([]) == []
    assert asyncio.run(adaptor.aembed_query("red")) == adaptor.embed_query("red")


def test_llamaindex(embedder: Embedder) -> None:
    base = pytest.importorskip("llama_index.core.base.embeddings.base")
    adaptor = llamaindex_embedding(embedder)
    assert isinstance(adaptor, base.BaseEmbedding)
    assert adaptor.model_name == embedder.manifest.source.name
    np.testing.assert_allclose(
        adaptor.get_text_embedding_batch(TEXTS), embedder.encode_document(TEXTS), atol=1e-6
    )
    np.testing.assert_allclose(adaptor.get_text_embedding("a"), embedder.encode_document("a"), atol=1e-6)
    np.testing.assert_allclose(adaptor.get_query_embedding("red"), embedder.encode_query("red"), atol=1e-6)
    assert asyncio.run(adaptor.aget_query_embedding("red")) == adaptor.get_query_embedding("red")


def test_what_is_missing_is_named(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("langchain_core", "langchain_core.embeddings", "llama_index", "llama_index.core"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "llama_index.core.base.embeddings.base", raising=False)
    with pytest.raises(EngineError, match="pip install langchain-core"):
        langchain_embeddings(embedder)
    with pytest.raises(EngineError, match="pip install llama-index-core"):
        llamaindex_embedding(embedder)
