"""The state of the machine during a measurement: other work, temperature, clock, throttling.

Everything is read from Linux' /proc and /sys; a value that a system does not tell is None and leads to no
conclusion. The only change that it makes to a system is to have it drop files from memory.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
# Of /proc/stat's first line (proc(5)): all that is not idle or waiting for a disk. Guests count as user.
_BUSY = (1, 2, 3, 6, 7, 8)
_PI_THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"
# Bits of the Raspberry Pi's firmware that say what is so now: voltage, capped clock, throttled, soft limit.
_PI_NOW = 0b1111


@dataclass(frozen=True)
class Clock:
    """Seconds of CPU time so far: of the whole machine, and of one process with its threads."""

    machine: float
    process: float


@dataclass(frozen=True)
class State:
    """A glance: hottest sensor in °C, fastest CPU's clock in MHz, throttling events so far (kernel), whether
    the firmware throttles now (Raspberry Pi), load average of one minute."""

    celsius: float | None
    megahertz: float | None
    throttle_events: int | None
    throttled_now: bool | None
    load: float | None


def clock(pid: int, root: Path = ROOT) -> Clock | None:
    """CPU time of the machine and of a process; None where the system does not tell."""
    try:
        words = (root / "proc/stat").read_text().split("\n", 1)[0].split()
        # The name in parentheses may hold anything; fields 14 and 15 of proc(5) come after it.
        own = (root / f"proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks = os.sysconf("SC_CLK_TCK")
        return Clock(sum(int(words[i]) for i in _BUSY) / ticks, (int(own[11]) + int(own[12])) / ticks)
    except (OSError, IndexError, ValueError, AttributeError):
        return None


def foreign(before: Clock | None, after: Clock | None) -> float:
    """Seconds of CPU time that other processes used between two readings; 0 if there are no readings.

    Both count in ticks of 10 ms, so that a short time may come out below 0; sums are right.
    """
    if before is None or after is None:
        return 0.0
    return (after.machine - before.machine) - (after.process - before.process)


def glance(root: Path = ROOT) -> State:
    """The machine's state now."""
    throttled = _text(root / _PI_THROTTLED)
    counts = _numbers(root, "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count")
    return State(
        celsius=_most(_numbers(root, "sys/class/thermal/thermal_zone*/temp"), 1e-3),
        megahertz=_most(_numbers(root, "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"), 1e-3),
        throttle_events=sum(counts) if counts else None,
        throttled_now=bool(int(throttled, 16) & _PI_NOW) if throttled else None,
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    )


def throttling(before: State, after: State) -> str | None:
    """A sentence saying that the machine throttled itself between two glances; None if nothing indicates
    it."""
    if before.throttle_events is not None and after.throttle_events is not None:
        events = after.throttle_events - before.throttle_events
        if events > 0:
            return f"the CPU throttled itself {events} times"
    return "the firmware throttles the CPU" if after.throttled_now else None


def _numbers(root: Path, pattern: str) -> list[int]:
    texts = [_text(path) for path in root.glob(pattern)]
    return [int(text) for text in texts if text.lstrip("-").isdigit()]


def _most(values: list[int], scale: float) -> float | None:
    return round(max(values) * scale, 1) if values else None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def drop_pages(files: Sequence[Path]) -> bool:
    """Ask the system to drop these files from its page cache; False if it has no such call."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())  # what is not on the disk yet stays in memory
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return bool(files)
