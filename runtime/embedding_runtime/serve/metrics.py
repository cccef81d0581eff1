"""The metrics that a Prometheus server reads, summed over all workers of the service."""

import os
from contextlib import suppress
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

# Where the workers of one service keep their counts; prometheus_client reads it when it is imported.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TEXTS = (1, 2, 4, 8, 16, 32, 64)

REQUESTS = Counter(
    "embedding_requests", "Requests for vectors, by HTTP status; 499 if the client disconnected", ["status"]
)
SECONDS = Histogram("embedding_request_seconds", "From a request to its answer", buckets=_SECONDS)
TEXTS = Counter("embedding_texts", "Texts that were answered")
TOKENS = Counter("embedding_tokens", "Tokens that the engine read, without padding")
BATCHES = Histogram("embedding_batch_texts", "Texts in each run of the engine", buckets=_TEXTS)
UNANSWERED = Gauge("embedding_unanswered_texts", "Texts of requests under way", multiprocess_mode="livesum")


def note_batch(texts: int, tokens: int) -> None:
    """Count a run of the engine."""
    BATCHES.observe(texts)
    TOKENS.inc(tokens)


def note_answer(texts: int) -> None:
    """Count texts whose vectors are being sent to a client."""
    TEXTS.inc(texts)


def note_request(status: int, seconds: float) -> None:
    """Count a finished request."""
    REQUESTS.labels(status).inc()
    SECONDS.observe(seconds)


def exposition() -> bytes:
    """All metrics, in Prometheus' text format."""
    folder = os.environ.get(FOLDER)
    if folder is None:
        return generate_latest(REGISTRY)
    for path in Path(folder).glob("gauge_live*_*.db"):
        pid = path.stem.rpartition("_")[2]
        if not Path("/proc", pid).exists() and Path("/proc").exists():
            with suppress(FileNotFoundError):  # another worker was first
                mark_process_dead(pid)  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
