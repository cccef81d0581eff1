"""The kind of this CPU, as far as it changes what an engine computes."""

import hashlib
import os
import platform
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
_X86 = ("x86_64", "amd64", "i386", "i686")
_ARM = ("aarch64", "arm64", "armv7l", "armv8l")


@cache
def cpu_kind() -> str:
    """`x86-vnni`, `x86`, `arm-dotprod`, `arm`, or the machine's own name.

    Int8 kernels differ along these lines: without VNNI, u8 x s8 products may saturate on x86; without the
    dot-product instructions, 4-bit kernels compute in another precision on ARM.
    """
    machine = platform.machine().lower()
    flags = cpu_flags()
    if machine in _X86:
        return "x86-vnni" if flags & {"avx512_vnni", "avx_vnni"} else "x86"
    if machine in _ARM:
        # macOS has no /proc; every Apple silicon core has the dot-product instructions.
        return "arm-dotprod" if "asimddp" in flags or platform.system() == "Darwin" else "arm"
    return machine


@cache
def cpu_fingerprint() -> str:
    """Changes when the machine's kind of CPU or its instruction set changes; 16 hex digits."""
    # Windows' own name for the CPU; platform.processor() would start a process elsewhere.
    name = os.environ.get("PROCESSOR_IDENTIFIER", "")
    text = "\n".join([platform.machine(), name, cpu_kind(), *sorted(cpu_flags())])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cpu_flags() -> frozenset[str]:
    """The instruction-set flags of the first CPU, empty if /proc/cpuinfo does not say."""
    flags = (value for key, value in read_cpuinfo(CPUINFO) if key.lower() in ("flags", "features"))
    return frozenset(next(flags, "").lower().split())


def read_cpuinfo(file: Path) -> tuple[tuple[str, str], ...]:
    """The lines of /proc/cpuinfo as (key, value), in their order; none if there is no such file."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    parted = (line.partition(":") for line in lines)
    return tuple((key.strip(), value.strip()) for key, _, value in parted)
