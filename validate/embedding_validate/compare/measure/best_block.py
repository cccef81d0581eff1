"""Seconds of something short, timed in blocks: other work only adds time, so the best block counts."""

import time
from collections.abc import Callable


def best_seconds(run: Callable[[], None], estimate: float, block_seconds: float, blocks: int) -> float:
    """Seconds of one run, of about `estimate`: the best of `blocks` blocks of about `block_seconds`."""
    times = max(1, round(block_seconds / max(estimate, 1e-6)))
    seconds = []
    for _ in range(blocks):
        started = time.perf_counter()
        for _ in range(times):
            run()
        seconds.append((time.perf_counter() - started) / times)
    return min(seconds)
