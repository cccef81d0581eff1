"""The LangChain and LlamaIndex adaptors give the Embedder's vectors; what is not installed is named."""

import asyncio
import copy
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedding_runtime import Embedder, EngineError, InputError
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


@pytest.fixture(params=["langchain", "llamaindex"])
def adapted(request: pytest.FixtureRequest) -> Any:
    """The two adaptors, each made from an Embedder."""
    pytest.importorskip({"langchain": "langchain_core", "llamaindex": "llama_index.core"}[request.param])
    return {"langchain": langchain_embeddings, "llamaindex": llamaindex_embedding}[request.param]


def told(adaptor: Any) -> dict[str, Any]:
    found: dict[str, Any] = adaptor.to_dict() if hasattr(adaptor, "to_dict") else adaptor.identity
    return found


CHANGES: dict[str, Callable[[Embedder], object]] = {
    "dimension": lambda e: setattr(e, "truncate_dim", 16),
    "max_seq_length": lambda e: setattr(e, "max_seq_length", 9),
    "overflow": lambda e: setattr(e, "overflow", "chunk"),
    "query_prompt": lambda e: e.prompts.update(query="q: "),
    "document_prompt": lambda e: e.prompts.update(document="d: "),
}


@pytest.mark.parametrize("field", CHANGES)
def test_all_that_vectors_depend_on_is_told(field: str, adapted: Any, tiny_bundle: Path) -> None:
    with Embedder(tiny_bundle, threads=1) as embedder:
        adaptor = adapted(embedder)
        before = told(adaptor)
        CHANGES[field](embedder)
        after = told(adaptor)
    assert {n for n in before if before[n] != after[n]} == {field}
    assert before["space_id"] == embedder.manifest.space_id and before["precision"] == "fp32"


def test_graphs_of_one_bundle_are_told_apart(adapted: Any, litert_bundle: Path) -> None:
    pairs = [("onnx", "fp32"), ("onnx", "int8"), ("litert", "int8")]
    options: list[Any] = [{"format": f, "precision": p, "threads": 1} for f, p in pairs]
    found = [told(adapted(Embedder(litert_bundle, **each))) for each in options]
    assert len({str(f) for f in found}) == len({f["graph"] for f in found}) == 3
    assert len({f["space_id"] for f in found}) == 1


def test_adaptors_can_be_pickled(adapted: Any, embedder: Embedder) -> None:
    adaptor = adapted(embedder)
    for again in (pickle.loads(pickle.dumps(adaptor)), copy.deepcopy(adaptor)):
        assert told(again) == told(adaptor)
        ask = "embed_query" if hasattr(adaptor, "embed_query") else "get_query_embedding"
        assert getattr(again, ask)("red") == getattr(adaptor, ask)("red")


@pytest.mark.parametrize("workers", [None, 2])
def test_a_pipeline_keeps_dimensions_apart(workers: int | None, tiny_bundle: Path) -> None:
    ingestion: Any = pytest.importorskip("llama_index.core.ingestion")
    schema: Any = pytest.importorskip("llama_index.core.schema")
    cache = ingestion.IngestionCache()
    for dim in (16, 64):
        with Embedder(tiny_bundle, threads=1, truncate_dim=dim) as embedder:
            steps = [llamaindex_embedding(embedder)]
            pipeline = ingestion.IngestionPipeline(transformations=steps, cache=cache)
            nodes = pipeline.run(nodes=[schema.TextNode(text=t) for t in TEXTS], num_workers=workers)
            expected = embedder.encode_document(TEXTS)
        assert len(nodes[0].embedding) == dim
        np.testing.assert_allclose([n.embedding for n in nodes], expected, atol=1e-6)


def test_a_cache_that_mixes_queries_and_documents_is_refused(embedder: Embedder) -> None:
    stores: Any = pytest.importorskip("llama_index.core.storage.kvstore")
    module: Any = pytest.importorskip("embedding_runtime.adaptors.llamaindex_embedding_class")
    adaptor = llamaindex_embedding(embedder)
    with pytest.raises(InputError, match=r"keyed by text alone.*IngestionPipeline"):
        adaptor.embeddings_cache = stores.SimpleKVStore()
    with pytest.raises(InputError, match="keyed by text alone"):
        module.EdgeEmbedding(embedder, embeddings_cache=stores.SimpleKVStore())
    adaptor.embeddings_cache = None
    adaptor.embed_batch_size = 3
    assert adaptor.get_query_embedding("red") != adaptor.get_text_embedding("red")


def test_namespaces_tell_sides_and_dimensions_apart(tiny_bundle: Path) -> None:
    pytest.importorskip("langchain_core")
    with Embedder(tiny_bundle, threads=1) as one, Embedder(tiny_bundle, threads=1, truncate_dim=16) as other:
        names = [langchain_embeddings(e).namespace(s) for e in (one, other) for s in ("query", "document")]
        assert len(set(names)) == 4
        assert langchain_embeddings(one).namespace("query") == names[0]


def test_what_is_missing_is_named(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("langchain_core", "langchain_core.embeddings", "llama_index", "llama_index.core"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "llama_index.core.base.embeddings.base", raising=False)
    with pytest.raises(EngineError, match="pip install langchain-core"):
        langchain_embeddings(embedder)
    with pytest.raises(EngineError, match="pip install llama-index-core"):
        llamaindex_embedding(embedder)
