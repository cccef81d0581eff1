"""What every measured process shares: its ids, its requests and answers, and how it sees that it waited."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from embedding_validate.compare.measure.protocol import memory, token_ids


def test_ids_are_the_same_everywhere() -> None:
    first = token_ids(100, 2, 6)
    np.testing.assert_array_equal(first, token_ids(100, 2, 6))
    assert first.shape == (2, 6) and first.dtype == np.int64
    assert 5 <= first.min() <= first.max() < 100


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_memory_by_kind() -> None:
    held = np.ones(1 << 23)
    before = memory()
    more = np.ones(1 << 23)
    assert memory()["RssAnon"] - before["RssAnon"] > 60_000
    assert before["VmHWM"] >= before["RssAnon"] > held.nbytes / 1024 and more.any()


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the system keeps no schedstat")
def test_waiting_for_a_cpu_is_seen() -> None:
    """Three busy processes on one CPU wait for most of the time."""
    code = (
        "import os, sys, time; os.sched_setaffinity(0, {int(sys.argv[1])})\n"
        "from embedding_validate.compare.measure.protocol import waiting\n"
        "before, end = waiting(), time.perf_counter() + 0.6\n"
        "while time.perf_counter() < end: pass\n"
        "print(waiting() - before)"
    )
    cpu = str(min(os.sched_getaffinity(0)))
    running = [
        subprocess.Popen([sys.executable, "-c", code, cpu], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    waited = [float(process.communicate()[0]) for process in running]
    assert max(waited) > 0.1
