"""The service's answers: the Embedder's vectors in OpenAI's shapes, and refusals that say why."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from service import Running, serving

from embedding_runtime import Embedder

TEXTS = ["the red planet", "", "naïve café 日本 🪐", "a much longer text about stones and water " * 9]


@pytest.fixture(scope="module")
def embedder(served_bundle: Path) -> Iterator[Embedder]:
    with Embedder(served_bundle, precision="int8", threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def service(served_bundle: Path) -> Iterator[Running]:
    with serving(served_bundle, "--precision", "int8", "--max-texts", 50) as running:
        yield running


def vectors(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert [entry["index"] for entry in found["data"]] == list(range(len(found["data"])))
    numbers = [entry["embedding"] for entry in found["data"]]
    if isinstance(numbers[0], str):
        return np.stack([np.frombuffer(base64.b64decode(n), dtype="<f4") for n in numbers])
    return np.array(numbers, dtype=np.float32)


@pytest.mark.parametrize("spelling", ["float", "base64"])
def test_vectors_are_those_of_each_text_alone(service: Running, embedder: Embedder, spelling: str) -> None:
    found = vectors(service.post(input=TEXTS, encoding_format=spelling))
    np.testing.assert_array_equal(found, np.stack([embedder.encode(text) for text in TEXTS]))
    (one,) = vectors(service.post(input=TEXTS[0], encoding_format=spelling))
    np.testing.assert_array_equal(one, found[0])


def test_dimensions_tasks_and_titles(service: Running, embedder: Embedder) -> None:
    dim = embedder.manifest.dims[-1]
    short = vectors(service.post(input=TEXTS, dimensions=dim, task="sts", user="me", model="tiny"))
    np.testing.assert_array_equal(short, [embedder.encode(t, task="STS", dim=dim) for t in TEXTS])
    titled = vectors(service.post(input=["a", "b"], title=["Mars", None]))
    np.testing.assert_array_equal(titled, embedder.encode_document(["a", "b"], titles=["Mars", None]))
    (one,) = vectors(service.post(input="a", title="Mars", task="document"))
    np.testing.assert_array_equal(one, titled[0])


def test_token_ids(service: Running, embedder: Embedder) -> None:
    ids = [embedder.tokenize(text)["input_ids"][0].tolist() for text in TEXTS]
    expected = np.stack([embedder.encode(text) for text in TEXTS])
    np.testing.assert_array_equal(vectors(service.post(input=ids)), expected)
    np.testing.assert_array_equal(vectors(service.post(input=ids[0])), expected[:1])


def test_usage_counts_tokens(service: Running, embedder: Embedder) -> None:
    counted = sum(embedder.tokenize(embedder.prompts["query"] + t)["input_ids"].size for t in TEXTS)
    usage = service.post(input=TEXTS, task="query").json()["usage"]
    assert usage == {"prompt_tokens": counted, "total_tokens": counted}


BAD: dict[str, tuple[Any, int, str | None, str]] = {
    "no input": ({}, 400, "input", "There is no input"),
    "null": ({"input": None}, 400, "input", "There is no input"),
    "a number": ({"input": 7.5}, 400, "input", "JSON number"),
    "an object": ({"input": {"text": "a"}}, 400, "input", "JSON object"),
    "nothing": ({"input": []}, 400, "input", "empty list"),
    "mixed": ({"input": ["a", 3]}, 400, "input", r"input\[1\] is a JSON number"),
    "mixed lists": ({"input": [[2, 1], "a"]}, 400, "input", r"input\[1\] is a JSON string"),
    "a bool": ({"input": [True]}, 400, "input", r"input\[0\] is a JSON boolean"),
    "float ids": ({"input": [[2, 4.5, 1]]}, 400, "input", r"input\[0\] holds '4.5'"),
    "null ids": ({"input": [[2, None, 1]]}, 400, "input", r"input\[0\] holds 'None'"),
    "nested": ({"input": [[["a"]]]}, 400, "input", r"input\[0\] holds"),
    "no ids": ({"input": [[]]}, 400, "input", "not this model's"),
    "foreign ids": ({"input": [9906, 1917]}, 400, "input", "check_embedding_ctx_length=False"),
    "inner control": ({"input": [[2, 2, 1]]}, 400, "input", "not this model's"),
    "negative id": ({"input": [[2, -1, 1]]}, 400, "input", "token id -1"),
    "large id": ({"input": [[2, 10**12, 1]]}, 400, "input", "token id 1000000000000"),
    "ids and task": ({"input": [[2, 9, 1]], "task": "query"}, 400, "input", "are for text"),
    "too many ids": ({"input": [[2, *[9] * 5000, 1]]}, 400, "input", "5002 token ids"),
    "a surrogate": ({"input": ["a", "\ud800"]}, 400, "input", r"input\[1\] holds the lone surrogate"),
    "a long text": ({"input": ["a b " * 5000]}, 400, "input", r"input\[0\] has more than"),
    "many texts": ({"input": ["a"] * 51}, 413, "input", "51 texts; this service takes 50"),
    "another model": ({"input": "a", "model": "gpt"}, 404, "model", "no model 'gpt'"),
    "model's type": ({"input": "a", "model": 7}, 404, "model", "no model '7'"),
    "a dim": ({"input": "a", "dimensions": 7}, 400, "dimensions", r"gives \[64"),
    "dim's type": ({"input": "a", "dimensions": "64"}, 400, "dimensions", r"gives \[64"),
    "a bool dim": ({"input": "a", "dimensions": True}, 400, "dimensions", r"gives \[64"),
    "a format": ({"input": "a", "encoding_format": "hex"}, 400, "encoding_format", "'hex'"),
    "format's type": ({"input": "a", "encoding_format": []}, 400, "encoding_format", "expected 'float'"),
    "a task": ({"input": "a", "task": "sing"}, 400, "task", "Task 'sing' is unknown"),
    "task's type": ({"input": "a", "task": 7}, 400, "task", "JSON number"),
    "no place for a title": ({"input": "a", "task": "query", "title": "b"}, 400, "title", "no 'title: none'"),
    "one title": ({"input": ["a", "b"], "title": "b"}, 400, "title", "for one text"),
    "few titles": ({"input": ["a", "b"], "title": ["b"]}, 400, "title", "1 titles for 2 texts"),
    "titles' type": ({"input": ["a"], "title": [7]}, 400, "title", "title or null"),
    "unknown": ({"input": "a", "dim": 64}, 400, "dim", "Unknown field 'dim'"),
    "a list": (["a"], 400, None, "JSON array; expected an object"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said(service: Running, name: str) -> None:
    body, status, param, message = BAD[name]
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{service.url}/v1/embeddings", content=json.dumps(body), headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param), error
    assert error["type"] == "invalid_request_error" and error["code"]
    assert re.search(message, error["message"]), error["message"]


RAW: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not valid JSON"),
    "cut": (b'{"input": "a', "not valid JSON"),
    "not UTF-8": (b'{"input": "\xff"}', "not UTF-8"),
    "deep": (b'{"input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not valid JSON"),
    "long number": (b'{"input": ' + b"1" * 10_000 + b"}", "not valid JSON"),
    "twice": (b'{"input": "a", "input": "b"}', "the field 'input' appears twice"),
}


@pytest.mark.parametrize("name", RAW)
def test_bodies_that_are_not_json(service: Running, name: str) -> None:
    body, message = RAW[name]
    headers = {"content-type": "application/json; charset=utf-8"}
    answer = httpx.post(f"{service.url}/v1/embeddings", content=body, headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "invalid_json")
    assert message in error["message"]


def test_other_refusals_have_the_same_shape(service: Running) -> None:
    url = f"{service.url}/v1/embeddings"
    answers = {
        404: httpx.get(f"{service.url}/v2"),
        405: httpx.get(url),
        415: httpx.post(url, content=b'{"input": "a"}', headers={"content-type": "text/plain"}),
    }
    packed = {"content-type": "application/json", "content-encoding": "gzip"}
    for status, answer in (*answers.items(), (415, httpx.post(url, content=b"x", headers=packed))):
        assert answer.status_code == status
        assert answer.json()["error"]["message"]
    assert answers[405].headers["allow"] == "POST"


def test_models(service: Running, embedder: Embedder) -> None:
    (model,) = httpx.get(f"{service.url}/v1/models").json()["data"]
    assert model["id"] == embedder.manifest.source.name
    assert model["space_id"] == embedder.manifest.space_id
    assert (model["graph"], model["dimensions"][0]) == ("onnx/int8", 64)
    assert "query" in model["tasks"]
    assert httpx.get(f"{service.url}/v1/models/{model['id']}").json() == model
    assert httpx.get(f"{service.url}/v1/models/gpt").status_code == 404


def test_health_and_metrics(service: Running) -> None:
    assert httpx.get(f"{service.url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{service.url}/ready").json() == {"status": "ready"}
    names = ["embedding_texts_total", "embedding_tokens_total", 'embedding_requests_total{status="200"}']
    before = [service.metric(name) for name in names]
    usage = service.post(input=TEXTS).json()["usage"]["total_tokens"]
    after = [service.metric(name) for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [len(TEXTS), usage, 1]
    assert service.metric("embedding_unanswered_texts") == 0


@pytest.mark.parametrize("overflow", ["truncate", "chunk"])
def test_long_texts_as_the_command_says(served_bundle: Path, embedder: Embedder, overflow: Any) -> None:
    long = ["water and stone " * 900, "short"]
    with serving(served_bundle, "--precision", "int8", "--overflow", overflow) as service:
        found = vectors(service.post(input=long, dimensions=embedder.manifest.dims[-1]))
    expected = [embedder.encode(t, overflow=overflow, dim=embedder.manifest.dims[-1]) for t in long]
    np.testing.assert_array_equal(found, np.stack(expected))
