"""The service as programs reach it: OpenAI's client, LangChain's and LlamaIndex's, curl."""

import asyncio
import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from service import Running, serving

from embedding_runtime import Embedder

TEXTS = ["the red planet", "naïve café 日本 🪐"]
TOKEN = "sk-local-0123456789"


@pytest.fixture(scope="module")
def embedder(served_bundle: Path) -> Iterator[Embedder]:
    with Embedder(served_bundle, precision="int8", threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def service(served_bundle: Path) -> Iterator[Running]:
    with serving(served_bundle, EMBED_TEXT_TOKEN=TOKEN) as running:
        yield running


@pytest.fixture
def client(service: Running) -> Iterator[Any]:
    openai: Any = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=TOKEN) as opened:
        yield opened


def test_openai(client: Any, embedder: Embedder) -> None:
    (model,) = client.models.list().data
    assert client.models.retrieve(model.id).id == model.id == "tiny"
    expected = np.stack([embedder.encode(text, dim=32) for text in TEXTS])
    for spelling in ({}, {"encoding_format": "float"}):
        found = client.embeddings.create(model=model.id, input=TEXTS, dimensions=32, **spelling)
        np.testing.assert_array_equal(np.array([d.embedding for d in found.data], dtype=np.float32), expected)
        assert [d.index for d in found.data] == [0, 1]
        assert found.usage.total_tokens == sum(embedder.tokenize(t)["input_ids"].size for t in TEXTS)
    extra = {"task": "document", "title": ["Mars", None]}
    found = client.embeddings.create(model="tiny", input=TEXTS, extra_body=extra)
    np.testing.assert_array_equal(
        np.array([d.embedding for d in found.data], dtype=np.float32),
        embedder.encode_document(TEXTS, titles=["Mars", None]),
    )


def test_openai_asynchronously(service: Running, embedder: Embedder) -> None:
    openai: Any = pytest.importorskip("openai")

    async def ask() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=TOKEN) as client:
            asked = (client.embeddings.create(model="tiny", input=f"text {i}") for i in range(50))
            return [found.data[0].embedding for found in await asyncio.gather(*asked)]

    expected = np.stack([embedder.encode(f"text {i}") for i in range(50)])
    np.testing.assert_array_equal(np.array(asyncio.run(ask()), dtype=np.float32), expected)


def test_openai_knows_the_errors(service: Running, client: Any) -> None:
    openai: Any = pytest.importorskip("openai")
    with pytest.raises(openai.BadRequestError, match="dimensions is 7") as bad:
        client.embeddings.create(model="tiny", input="a", dimensions=7)
    assert (bad.value.param, bad.value.code) == ("dimensions", "invalid_value")
    with pytest.raises(openai.NotFoundError, match="no model 'text-embedding-3-small'"):
        client.embeddings.create(model="text-embedding-3-small", input="a")
    with (
        openai.OpenAI(base_url=f"{service.url}/v1", api_key="another") as stranger,
        pytest.raises(openai.AuthenticationError, match="needs its token"),
    ):
        stranger.embeddings.create(model="tiny", input="a")


def test_langchain(service: Running, embedder: Embedder) -> None:
    langchain: Any = pytest.importorskip("langchain_openai")
    options = {"model": "tiny", "base_url": f"{service.url}/v1", "api_key": TOKEN, "dimensions": 32}
    documents, queries = (
        langchain.OpenAIEmbeddings(
            **options, check_embedding_ctx_length=False, model_kwargs={"extra_body": {"task": task}}
        )
        for task in ("document", "query")
    )
    found = np.array(documents.embed_documents(TEXTS), dtype=np.float32)
    np.testing.assert_array_equal(found, embedder.encode_document(TEXTS, dim=32))
    found = np.array(queries.embed_query("red"), dtype=np.float32)
    np.testing.assert_array_equal(found, embedder.encode_query("red", dim=32))


def test_llamaindex(service: Running, embedder: Embedder) -> None:
    module: Any = pytest.importorskip("llama_index.embeddings.openai")
    options = {"model_name": "tiny", "api_base": f"{service.url}/v1", "api_key": TOKEN, "dimensions": 32}
    documents, queries = (
        module.OpenAIEmbedding(**options, additional_kwargs={"extra_body": {"task": task}})
        for task in ("document", "query")
    )
    found = np.array(documents.get_text_embedding_batch(TEXTS), dtype=np.float32)
    np.testing.assert_array_equal(found, embedder.encode_document(TEXTS, dim=32))
    found = np.array(queries.get_query_embedding("red"), dtype=np.float32)
    np.testing.assert_array_equal(found, embedder.encode_query("red", dim=32))


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(service: Running, embedder: Embedder, tmp_path: Path) -> None:
    def curl(*arguments: str) -> tuple[int, Any]:
        command = ["curl", "-sS", "-w", "\n%{http_code}", f"{service.url}/v1/embeddings", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        body, _, status = done.stdout.rpartition("\n")
        return int(status), json.loads(body)

    typed = ("-H", "Content-Type: application/json", "-H", f"Authorization: Bearer {TOKEN}")
    status, found = curl(*typed, "-d", '{"input": "red", "task": "query", "encoding_format": "base64"}')
    assert status == 200
    vector = np.frombuffer(base64.b64decode(found["data"][0]["embedding"]), dtype="<f4")
    np.testing.assert_array_equal(vector, embedder.encode_query("red"))
    assert curl("-d", "{}")[0] == 401
    assert curl(*typed[2:], "-d", '{"input": "red"}')[0] == 415
    (tmp_path / "large").write_bytes(b'{"input": "' + b"a" * 20_000_000 + b'"}')
    for expecting in ("Expect: 100-continue", "Expect:"):
        status, found = curl(*typed, "-H", expecting, "--data-binary", f"@{tmp_path / 'large'}")
        assert (status, found["error"]["code"]) == (413, "request_too_large")
