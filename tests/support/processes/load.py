"""Many requests at once against `embed-text serve`; as a program, measured in turn with `embed-text`.

python tests/support/load.py BUNDLE [TURNS [REQUESTS]]
"""

import asyncio
import base64
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from service import serving
from text_command import COMMAND

from embedding_runtime import Embedder
from embedding_runtime.machine.process_memory import process_memory


@dataclass(frozen=True)
class Answers:
    """Statuses, vectors (N, dim) and seconds of each request, and of all."""

    statuses: list[int]
    vectors: Any
    seconds: Any
    whole: float


def mixed_texts(count: int) -> list[str]:
    """Texts of 2 to some 400 words, most of them short, each another."""
    words = ["the", "red", "planet", "is", "called", "so", "for", "iron", "in", "its", "dust", "and", "rocks"]
    rng = np.random.default_rng(7)
    lengths = np.minimum(400, 2 + rng.pareto(1.2, count) * 12).astype(int)
    return [f"{i} " + " ".join(rng.choice(words, n)) for i, n in enumerate(lengths)]


def ask_all_at_once(url: str, texts: list[str]) -> Answers:
    """One request and one connection for each text, all at the same time."""
    host, port = url.removeprefix("http://").split(":")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    async def ask(text: str) -> tuple[int, Any, float]:
        body = json.dumps({"input": text, "encoding_format": "base64"}).encode()
        head = (
            f"POST /v1/embeddings HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        started = time.perf_counter()
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head.encode() + body)
        answer = await reader.read()
        taken = time.perf_counter() - started
        writer.close()
        return int(answer[9:12]), answer.partition(b"\r\n\r\n")[2], taken

    async def all_of_them() -> list[tuple[int, Any, float]]:
        return await asyncio.gather(*map(ask, texts))

    started = time.perf_counter()
    found = asyncio.run(all_of_them())
    whole = time.perf_counter() - started
    vectors = [np.frombuffer(_decoded(body), dtype="<f4") for status, body, _ in found if status == 200]
    return Answers([f[0] for f in found], np.array(vectors), np.array([f[2] for f in found]), whole)


def _decoded(body: bytes) -> bytes:
    return base64.b64decode(json.loads(body)["data"][0]["embedding"])


def _embed_text_seconds(bundle: Path, texts: list[str], threads: int) -> float:
    """Of a run of `embed-text` on the same texts, without its start."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in").write_text("\n".join(texts))
        command = [*COMMAND, str(bundle), f"{folder}/in", "--threads", str(threads), "--json"]
        done = subprocess.run([*command, "-o", f"{folder}/out.npy"], capture_output=True, check=True)
        return float(json.loads(done.stdout)["seconds"])


def main(bundle: str, turns: str = "3", requests: str = "1000") -> None:
    """Print what was measured."""
    texts = mixed_texts(int(requests))
    with Embedder(bundle, threads=1) as embedder:
        alone = np.stack([embedder.encode(text) for text in texts])
    with serving(Path(bundle)) as service:
        ask_all_at_once(service.url, texts[:50])
        for _ in range(int(turns)):
            found = ask_all_at_once(service.url, texts)
            command = _embed_text_seconds(Path(bundle), texts, 1)
            p50, p99 = np.percentile(found.seconds, [50, 99])
            memory = process_memory(service.process.pid)
            lost = len(texts) - found.statuses.count(200)
            error = np.abs(found.vectors - alone).max() if not lost else np.nan
            print(
                f"lost {lost}, largest difference to alone {error:.2g}, p50 {p50:.3f} s, p99 {p99:.3f} s, "
                f"service {found.whole:.2f} s, embed-text {command:.2f} s, "
                f"ratio {command / found.whole:.2f}, "
                f"own memory {memory.anonymous / 1e6 if memory else 0:.0f} MB, "
                f"peak {memory.peak / 1e6 if memory else 0:.0f} MB"
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
