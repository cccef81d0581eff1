"""How many threads this process may use. Knows nothing of engines."""

import os
from math import ceil
from pathlib import Path

from embedding_runtime.errors import InputError, InputTypeError

_CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_V1 = Path("/sys/fs/cgroup/cpu")


def resolve_threads(threads: int | None) -> int:
    """The number asked for, or as many as the process may run at once.

    Raises:
        InputTypeError: not an int.  InputError: below 1.
    """
    if threads is None:
        return available_cpus()
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise InputTypeError(f"threads is {threads!r}; expected an int of at least 1, or None.")
    if threads < 1:
        raise InputError(f"threads is {threads}; expected at least 1, or None for all that may be used.")
    return threads


def available_cpus() -> int:
    """CPUs this process may be scheduled on, capped by the control group's quota; at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = _quota()
    return max(1, min(cpus, ceil(quota) if quota else cpus))


def _quota() -> float | None:
    """CPUs' worth of time that the control group grants, None when unlimited or unknown."""
    try:
        if _CGROUP_V2.exists():
            limit, period = _CGROUP_V2.read_text().split()
        else:
            limit = (_CGROUP_V1 / "cpu.cfs_quota_us").read_text().strip()
            period = (_CGROUP_V1 / "cpu.cfs_period_us").read_text().strip()
        return int(limit) / int(period) if int(limit) > 0 else None
    except (OSError, ValueError):  # "max" means no limit
        return None
