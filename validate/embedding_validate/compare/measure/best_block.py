"""Seconds of something short, timed in blocks: other work only adds time, so the best block counts."""

import time
from collections.abc import Callable


def best_seconds(run: Callable[[], None], estimate: float, seconds: float, blocks: int) -> float:
    """Seconds of one run, of about `estimate`: the best of `blocks` blocks of about `seconds`."""
    return min(block_seconds(run, estimate, seconds, blocks))


def block_seconds(run: Callable[[], None], estimate: float, seconds: float, blocks: int) -> list[float]:
    """Seconds of one run, of about `estimate`, in each of `blocks` blocks of about `seconds`."""
    times = max(1, round(seconds / max(estimate, 1e-6)))
    found = []
    for _ in range(blocks):
        started = time.perf_counter()
        for _ in range(times):
            run()
        found.append((time.perf_counter() - started) / times)
    return found
