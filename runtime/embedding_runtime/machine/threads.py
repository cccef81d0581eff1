"""How many threads an engine gets."""

from math import ceil
from pathlib import Path

from embedding_runtime.errors import InputError, InputTypeError
from embedding_runtime.machine.cgroups import cpu_quota
from embedding_runtime.machine.cores import ROOT, cores, fast_cores

# More than any CPU has cores for; an engine would try to start any number, and take the machine down with it.
MOST = 512


def resolve_threads(threads: int | None) -> int:
    """The requested number of threads, or as many as make the engine faster.

    Raises:
        InputTypeError: not an int.  InputError: below 1, or above `MOST`.
    """
    if threads is None:
        return available_cpus()
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise InputTypeError(f"threads is {threads!r}; expected an int of at least 1, or None.")
    if not 1 <= threads <= MOST:
        raise InputError(f"threads is {threads}; expected 1 to {MOST}, or None for all that may be used.")
    return threads


def available_cpus(root: Path = ROOT, allowed: set[int] | None = None) -> int:
    """Fast CPUs this process may be scheduled on, capped by the control group's quota; at least 1.

    On a board with fast and slow cores the slow ones are left out, because every step waits for its last
    thread. `root` and `allowed` replace this machine's tree and affinity by another's.
    """
    fast, quota = len(fast_cores(cores(root, allowed))), cpu_quota(root)
    return max(1, min(fast, ceil(quota) if quota else fast))
