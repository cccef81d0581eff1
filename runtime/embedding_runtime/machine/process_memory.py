"""How much memory a process holds and of which kind (Linux), and how to return what it does not need."""

import ctypes
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class Memory:
    """Bytes. `anonymous` is the process's own, which only swapping could take back; `resident` counts mapped
    files too; `proportional` counts what several processes map in equal shares; `peak` is the largest
    `resident` so far."""

    anonymous: int
    resident: int
    proportional: int
    peak: int


def process_memory(pid: int | str = "self", proc: Path = _PROC) -> Memory | None:
    """The memory of a process; None if the system does not tell."""
    try:
        rollup = _fields(proc / str(pid) / "smaps_rollup")
        status = _fields(proc / str(pid) / "status")
        return Memory(rollup["Anonymous"], rollup["Rss"], rollup["Pss"], status["VmHWM"])
    except (OSError, KeyError):
        return None


def give_back_memory() -> None:
    """Have the C library return freed memory: glibc would keep 90 MB after packing an int8 graph."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _fields(path: Path) -> dict[str, int]:
    """The values of the lines `Name:   123 kB`, in bytes."""
    values = {}
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        number, _, unit = value.strip().partition(" ")
        if unit == "kB" and number.isdigit():
            values[name] = int(number) << 10
    return values
