"""Limits and faults of clients: the right status, nobody else harmed, nothing left behind."""

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from load import ask_all_at_once, mixed_texts
from service import Running, serving

from embedding_runtime import Embedder
from embedding_runtime.machine.process_memory import process_memory

UNANSWERED = "embedding_unanswered_texts"
# What a thousand connections with their texts may take.
MOST_BYTES = 250_000_000


def slow(tokens: int = 200) -> dict[str, Any]:
    """A request that is work for the engine: lists of token ids cost the service little else."""
    return {"input": [[2, *[9] * tokens, 1]] * 400}


@pytest.fixture(scope="module")
def service(served_bundle: Path) -> Iterator[Running]:
    options = ("--precision", "fp32", "--max-tokens", 300_000, "--max-queue", 450)
    with serving(served_bundle, *options, "--timeout", 60, "--max-body", 8_000_000) as running:
        yield running


def raw(url: str, head: str, body: bytes = b"") -> socket.socket:
    """A connection on which a request, or a part of one, has been sent."""
    host, port = url.removeprefix("http://").split(":")
    found = socket.create_connection((host, int(port)), timeout=60)
    found.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
    return found


def head(length: int) -> str:
    return f"POST /v1/embeddings HTTP/1.1\nHost: x\nContent-Type: application/json\nContent-Length: {length}"


def test_a_client_that_hangs_up_frees_its_place(service: Running) -> None:
    """And what it asked for is not computed for nobody."""
    body = json.dumps(slow(700)).encode()
    cancelled = service.metric('embedding_requests_total{status="499"}')
    before = service.metric("embedding_tokens_total")
    connection = raw(service.url, head(len(body)), body)
    service.until(UNANSWERED, 400)
    connection.close()
    service.until(UNANSWERED, 0, seconds=3)
    assert service.metric('embedding_requests_total{status="499"}') == cancelled + 1
    assert service.post(input="a").status_code == 200
    done = service.metric("embedding_tokens_total")
    time.sleep(0.5)
    assert service.metric("embedding_tokens_total") == done
    assert done - before < 400 * 702


def test_a_client_that_hangs_up_in_its_body(service: Running) -> None:
    cancelled = service.metric('embedding_requests_total{status="499"}')
    raw(service.url, head(1000), b'{"input": ').close()
    service.until('embedding_requests_total{status="499"}', cancelled + 1)


def test_a_full_queue_says_when_to_come_again(service: Running) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: service.post(**slow()))
        service.until(UNANSWERED, 400)
        assert service.post(input=["a"] * 50).status_code == 200, "there is room for 50"
        refused = service.post(input=["a"] * 51)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["type"] == "server_error"
        assert waiting.result().status_code == 200
    service.until(UNANSWERED, 0)


def test_tokens_of_a_request(service: Running) -> None:
    answer = service.post(input=["a"] * 10 + [[2, 9, 1]])
    assert answer.status_code == 400
    answer = service.post(input=[[2, *[9] * 2000, 1]] * 151)
    assert answer.status_code == 413
    assert "more than the 300000 tokens" in answer.json()["error"]["message"]
    service.until(UNANSWERED, 0)


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_is_too_large_is_answered(service: Running, declared: bool) -> None:
    body = b'{"input": "' + b"a" * 20_000_000 + b'"}'
    parts = (body[i : i + 100_000] for i in range(0, len(body), 100_000))
    answer = httpx.post(
        f"{service.url}/v1/embeddings",
        content=body if declared else parts,
        headers={"content-type": "application/json"},
        timeout=60,
    )
    assert answer.status_code == 413
    assert "8000000 bytes" in answer.json()["error"]["message"]
    assert service.post(input="a").status_code == 200


def test_a_client_that_sends_all_before_it_reads_gets_its_answer(service: Running) -> None:
    body = b'{"input": "' + b"a" * 20_000_000 + b'"}'
    with raw(service.url, head(len(body)), body) as connection:
        answer = b"".join(iter(lambda: connection.recv(10_000), b""))
    assert answer.startswith(b"HTTP/1.1 413")


def test_bodies_together_have_a_bound(served_bundle: Path) -> None:
    with serving(served_bundle, "--max-body", 1000) as service:
        held = [raw(service.url, head(1000), b"{") for _ in range(8)]
        time.sleep(0.3)
        answer = service.post(input="a")
        assert answer.status_code == 503
        for connection in held:
            connection.close()
        deadline = time.monotonic() + 10
        while service.post(input="a").status_code == 503:
            assert time.monotonic() < deadline


def test_time_is_up(served_bundle: Path) -> None:
    """For a body that does not come, for work that takes too long, for a reader that does not read."""
    options = ("--precision", "fp32", "--timeout", 1, "--max-tokens", 1_000_000)
    with serving(served_bundle, *options) as service:
        with raw(service.url, head(1000), b'{"input": ') as slow_sender:
            answer = b"".join(iter(lambda: slow_sender.recv(10_000), b"")).decode()
        assert answer.startswith("HTTP/1.1 408") and '"code":"timeout"' in answer
        late = service.post(**slow(2000))
        assert late.status_code == 504
        assert "within 1 seconds" in late.json()["error"]["message"]
        service.until(UNANSWERED, 0, seconds=3)
        assert service.post(input="a").status_code == 200


def test_a_slow_reader_is_cut_off(served_bundle: Path) -> None:
    """One that reads a little all the time."""
    with serving(served_bundle, "--timeout", 8, "--max-texts", 12_000) as service:
        body = json.dumps({"input": ["a"] * 12_000}).encode()
        host, port = service.url.removeprefix("http://").split(":")
        with socket.socket() as reader:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect((host, int(port)))
            reader.sendall(head(len(body)).replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
            service.until(UNANSWERED, 12_000)
            started, found = time.monotonic(), 0
            assert service.post(input="a").status_code == 200, "others are answered meanwhile"
            while service.metric(UNANSWERED):
                found += len(reader.recv(1000))
                assert time.monotonic() < started + 20
                time.sleep(0.05)
        assert 0 < found < 12_000 * 64
        assert service.post(input="a").status_code == 200


@pytest.mark.parametrize(("precision", "count"), [("int8", 1000), ("fp32", 200)])
def test_concurrent_requests_have_the_vectors_of_each_alone(
    served_bundle: Path, precision: Any, count: int
) -> None:
    """None is lost, none is changed: bit for bit in int8, to 1e-6 in fp32; memory grows little."""
    texts = mixed_texts(count)
    with serving(served_bundle, "--precision", precision) as service:
        idle = process_memory(service.process.pid)
        found = ask_all_at_once(service.url, texts)
        busiest = process_memory(service.process.pid)
        batches, run = (service.metric(f"embedding_batch_texts_{n}") for n in ("count", "sum"))
        service.until(UNANSWERED, 0)
    assert set(found.statuses) == {200}
    if idle and busiest:
        assert busiest.peak - idle.resident < MOST_BYTES
    with Embedder(served_bundle, precision=precision, threads=1) as embedder:
        alone = np.stack([embedder.encode(text) for text in texts])
    np.testing.assert_allclose(found.vectors, alone, atol=0 if precision == "int8" else 1e-6, rtol=0)
    assert run == count > 1.5 * batches, "they ran together"
