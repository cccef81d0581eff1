"""Which CPUs this process may run on, and which of them are the fast ones.

Every function reads the tree under `root`, so that a test can give it another machine's.
"""

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from embedding_runtime.machine.cpu import read_cpuinfo

ROOT = Path("/")
# A core is a slow one below this share of the fastest: of the scheduler's capacity (1024 for the fastest
# core; from the device tree or from firmware), else of the highest clock, which tells less.
_FAST_CAPACITY = 0.6
_FAST_CLOCK = 0.85
# Linux, arch/arm64/include/asm/cputype.h: "CPU part" of implementer 0x41 (Arm).
_ARM_PARTS = {
    0xD03: "Cortex-A53",
    0xD04: "Cortex-A35",
    0xD05: "Cortex-A55",
    0xD07: "Cortex-A57",
    0xD08: "Cortex-A72",
    0xD09: "Cortex-A73",
    0xD0A: "Cortex-A75",
    0xD0B: "Cortex-A76",
    0xD0C: "Neoverse-N1",
    0xD0D: "Cortex-A77",
    0xD40: "Neoverse-V1",
    0xD41: "Cortex-A78",
    0xD44: "Cortex-X1",
    0xD46: "Cortex-A510",
    0xD47: "Cortex-A710",
    0xD48: "Cortex-X2",
    0xD49: "Neoverse-N2",
    0xD4D: "Cortex-A715",
    0xD4E: "Cortex-X3",
    0xD4F: "Neoverse-V2",
    0xD80: "Cortex-A520",
    0xD81: "Cortex-A720",
    0xD82: "Cortex-X4",
}


@dataclass(frozen=True)
class Core:
    """One CPU by the system's number; None means that the system does not tell."""

    number: int
    name: str | None = None
    capacity: int | None = None
    megahertz: int | None = None


def cores(root: Path = ROOT, allowed: Collection[int] | None = None) -> tuple[Core, ...]:
    """The CPUs this process may be scheduled on: `allowed`, else those of its affinity."""
    numbers = sorted(_affinity() if allowed is None else allowed)
    names = _names(root)
    return tuple(Core(n, names.get(n), *_figures(root / f"sys/devices/system/cpu/cpu{n}")) for n in numbers)


def fast_cores(all_cores: Collection[Core]) -> tuple[Core, ...]:
    """The cores worth a thread beside the fastest; all if the system does not tell them apart."""
    for measure, share in (("capacity", _FAST_CAPACITY), ("megahertz", _FAST_CLOCK)):
        values = [getattr(core, measure) for core in all_cores]
        if values and all(values):
            least = share * max(values)
            return tuple(core for core, value in zip(all_cores, values, strict=True) if value >= least)
    return tuple(all_cores)


def _affinity() -> set[int]:
    get = getattr(os, "sched_getaffinity", None)
    return set(get(0)) if get else set(range(os.cpu_count() or 1))


def _figures(folder: Path) -> tuple[int | None, int | None]:
    """Capacity and highest clock in MHz."""
    kilohertz = _number(folder / "cpufreq/cpuinfo_max_freq")
    return _number(folder / "cpu_capacity"), kilohertz and kilohertz // 1000


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _names(root: Path) -> dict[int, str]:
    """Model names by CPU number."""
    names: dict[int, str] = {}
    number = -1
    for key, value in read_cpuinfo(root / "proc/cpuinfo"):
        if key == "processor" and value.isdigit():
            number = int(value)
        elif key == "model name":
            names[number] = value
        elif key == "CPU part":
            names[number] = _ARM_PARTS.get(int(value, 16), f"ARM part {value}")
    return names
