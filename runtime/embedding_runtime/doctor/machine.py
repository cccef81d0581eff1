"""Examines the machine for `embedding-doctor`: CPU, memory, engines, cache. Opens no bundle."""

import os
import platform
import shutil
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from embedding_runtime.bundle import Format
from embedding_runtime.engines.registry import ENGINES, engine_module, installed, unfit
from embedding_runtime.errors import EngineError
from embedding_runtime.machine import cpu
from embedding_runtime.machine.cgroups import cpu_quota, memory_limit
from embedding_runtime.machine.cores import ROOT, cores, fast_cores
from embedding_runtime.machine.device_cache import entries_folder
from embedding_runtime.machine.platforms import Platform, lack, this_platform
from embedding_runtime.machine.threads import available_cpus

# What to call an instruction set, by the flags of /proc/cpuinfo of which one suffices.
_FEATURES: dict[str, dict[str, tuple[str, ...]]] = {
    "arm": {"dotprod": ("asimddp",), "i8mm": ("i8mm",), "bf16": ("bf16",), "sve": ("sve",)},
    "x86": {"AVX2": ("avx2",), "AVX-512": ("avx512f",), "VNNI": ("avx512_vnni", "avx_vnni")},
}


@dataclass(frozen=True)
class CoreGroup:
    """The usable CPUs of one kind; `fast` says whether they get threads."""

    name: str
    count: int
    megahertz: int | None
    fast: bool


@dataclass(frozen=True)
class EngineState:
    """An engine: its version, or why there is none; `fits` is whether it is made for this CPU."""

    name: str
    installed: bool
    fits: bool
    version: str | None
    error: str | None


@dataclass(frozen=True)
class CacheState:
    """The device's cache: sizes in bytes; `writable` is whether entries can be added."""

    folder: str
    entries: int
    size: int
    free: int
    writable: bool


@dataclass(frozen=True)
class Machine:
    """The machine. Sizes are in bytes; None means that the system does not tell."""

    board: str
    platform: Platform
    python: str
    cpu_kind: str
    features: dict[str, bool]
    cores: tuple[CoreGroup, ...]
    quota: float | None
    threads: int
    memory: int | None
    memory_available: int | None
    memory_limit: int | None
    governor: str | None
    engines: dict[Format, EngineState]
    cache: CacheState


def examine_machine(root: Path = ROOT) -> Machine:
    """Look at this machine; `root` holds its /proc and /sys."""
    total, available = _memory(root)
    return Machine(
        board=_text(root / "proc/device-tree/model") or platform.machine(),
        platform=this_platform(),
        python=platform.python_version(),
        cpu_kind=cpu.cpu_kind(),
        features=_features(),
        cores=_groups(root),
        quota=cpu_quota(root),
        threads=available_cpus(root),
        memory=total,
        memory_available=available,
        memory_limit=memory_limit(root),
        governor=_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
        engines={kind: _engine(kind) for kind in ENGINES},
        cache=_cache(entries_folder()),
    )


def _features() -> dict[str, bool]:
    flags, family = cpu.cpu_flags(), cpu.cpu_kind().split("-")[0]
    return {name: bool(flags & set(any_of)) for name, any_of in _FEATURES.get(family, {}).items()}


def _groups(root: Path) -> tuple[CoreGroup, ...]:
    all_cores = cores(root)
    fast = fast_cores(all_cores)
    kinds = Counter((c.name or "CPU", c.megahertz, c in fast) for c in all_cores)
    return tuple(CoreGroup(name, n, megahertz, quick) for (name, megahertz, quick), n in kinds.items())


def _engine(kind: Format) -> EngineState:
    name = ENGINES[kind].name
    reason = unfit(kind)
    if not installed(kind):
        return EngineState(name, False, not reason, None, lack(name, this_platform()) or "not installed")
    try:
        return EngineState(name, True, True, str(engine_module(kind).__version__), None)
    except EngineError as e:
        return EngineState(name, True, not reason, None, str(e))


def _cache(folder: Path) -> CacheState:
    # os.path says that what may not be looked at is not there.
    there = next(p for p in (folder, *folder.parents) if os.path.exists(p))  # noqa: PTH110
    entries, sizes = 0, [0]
    with suppress(OSError):  # unreadable, or another process is replacing an entry
        entries = sum(p.is_dir() and not p.name.startswith(".") for p in folder.iterdir())
        sizes = [p.stat().st_size for p in folder.rglob("*") if p.is_file()]
    writable = os.access(there, os.W_OK | os.X_OK)
    return CacheState(str(folder), entries, sum(sizes), shutil.disk_usage(there).free, writable)


def _memory(root: Path) -> tuple[int | None, int | None]:
    """Total memory, and the memory available without swapping."""
    fields = {}
    for line in _text(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        fields[name] = int(value.split()[0]) << 10
    return fields.get("MemTotal"), fields.get("MemAvailable")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""
