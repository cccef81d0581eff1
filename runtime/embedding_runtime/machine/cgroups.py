"""How much CPU time and memory this process's control group grants (Linux; containers, systemd units).

Every function reads the tree under `root`, so that a test can give it another machine's.
"""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
# Version 1 says "no limit" with the largest number of bytes that is a whole number of pages.
_NO_LIMIT = 1 << 60


def cpu_quota(root: Path = ROOT) -> float | None:
    """The quota in CPUs, the smallest of the group and its parents; None if unlimited or unknown."""
    quotas = [_share(*_words(folder / "cpu.max")) for folder in _folders(root, "")]
    for folder in _folders(root, "cpu"):
        quotas.append(_share(*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")))
    return min((q for q in quotas if q is not None), default=None)


def memory_limit(root: Path = ROOT) -> int | None:
    """The limit in bytes, the smallest of the group and its parents; None if unlimited or unknown."""
    texts = [_words(folder / "memory.max") for folder in _folders(root, "")]
    texts += [_words(folder / "memory.limit_in_bytes") for folder in _folders(root, "memory")]
    limits = [int(words[0]) for words in texts if words and words[0].isdigit()]
    return min((n for n in limits if n < _NO_LIMIT), default=None)


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the process's group and its parents, as far as they are visible; no controller means
    version 2."""
    mounts = root / "sys/fs/cgroup"
    names = ("unified", "") if not controller else (controller, "cpu,cpuacct")[: 1 + (controller == "cpu")]
    group = _group(root, controller).strip("/")
    for mount in (mounts / name for name in names):
        parts = [p for p in group.split("/") if p not in ("", "..")]
        yield from (mount.joinpath(*parts[:n]) for n in range(len(parts), -1, -1))


def _group(root: Path, controller: str) -> str:
    """The path of the process's group in a hierarchy, `/` if it cannot be read."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return "/"
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(","):
            return path
    return "/"


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _share(limit: str = "max", period: str = "") -> float | None:
    try:
        return int(limit) / int(period) if int(limit) > 0 else None
    except (ValueError, ZeroDivisionError):  # "max" means no limit
        return None
