"""Faults of clients, and killed workers, for a while: nothing is lost, nothing leaks.

SOAK_SECONDS says for how long, SOAK_BUNDLE with which bundle; `make test-soak` takes ten minutes.
"""

import json
import os
from pathlib import Path

import pytest
from soak import Held, soak

# Of memory that Python's and the C library's allocators may keep, whatever the time.
_KEPT_BYTES = 40_000_000


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_faults_lose_nothing_and_leak_nothing(
    served_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Path(os.environ.get("SOAK_BUNDLE", served_bundle))
    found = soak(bundle, float(os.environ.get("SOAK_SECONDS", "10")))
    with capsys.disabled():
        print(f"\n{json.dumps(found)}")  # noqa: T201 (figures that a passed test would keep to itself)
    assert found["wrong"] == [] and found["unexpected lines"] == []
    assert found["killed workers"] >= 1
    kinds = {line.partition(":")[0].partition(",")[0] for line in found["answers"]}
    assert kinds >= {"right", "malformed", "oversized", "hung up", "slow sender", "read slowly"}
    before, after = Held(**found["before"]), Held(**found["after"])
    assert (after.files, after.threads) == (before.files, before.threads)
    assert after.anonymous < before.anonymous + _KEPT_BYTES
