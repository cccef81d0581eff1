"""Which systems the engines are built for, and what a given system lacks. Imports no engine."""

import os
import platform
import sys
import sysconfig
from dataclasses import dataclass

# The oldest C library that each engine's wheels run with: onnxruntime's are tagged manylinux_2_28;
# ai-edge-litert's say 2.27, but ask for symbols of 2.34.
GLIBC_NEEDED = {"onnxruntime": (2, 28), "ai-edge-litert": (2, 34)}


@dataclass(frozen=True)
class Platform:
    """A platform. `libc` is glibc, musl, or "" if the system has neither; `libc_version` is () if unknown."""

    system: str
    machine: str
    bits: int
    libc: str
    libc_version: tuple[int, ...]

    @property
    def libc_text(self) -> str:
        """Name and version, e.g. `glibc 2.36`."""
        return " ".join(filter(None, (self.libc, ".".join(map(str, self.libc_version)))))


def this_platform() -> Platform:
    """The platform that this Python was built for and runs on."""
    bits = 64 if sys.maxsize > 1 << 32 else 32
    return Platform(platform.system(), platform.machine(), bits, *_libc())


def lack(engine: str, on: Platform) -> str | None:
    """Why a platform cannot have an engine's wheel and what to do; None if it can."""
    needed = GLIBC_NEEDED.get(engine, (2, 28))
    least = ".".join(map(str, needed))
    if on.bits < 64:
        return (
            f"This is a {on.bits}-bit Python ({on.machine}), but {engine} is built for 64 bits only. Install "
            "a 64-bit system: Raspberry Pi OS (64-bit) runs on the Pi 3, 4, 5 and Zero 2 W."
        )
    if on.libc == "musl":
        return (
            f"This system's C library is musl, but {engine} is built for glibc >= {least}. Take a system "
            "with glibc: Debian, Ubuntu, Raspberry Pi OS; for a container, an image that is not Alpine's."
        )
    if on.libc == "glibc" and on.libc_version and on.libc_version < needed:
        return (
            f"This system has {on.libc_text}, but {engine} needs glibc >= {least}. Upgrade the system: "
            "Debian 12, Ubuntu 22.04 and Raspberry Pi OS of 2023, or newer, have it."
        )
    return None


def _libc() -> tuple[str, tuple[int, ...]]:
    if platform.system() != "Linux":
        return "", ()
    if "musl" in str(sysconfig.get_config_var("HOST_GNU_TYPE")):
        return "musl", ()
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        return name, tuple(int(part) for part in version.split(".") if part.isdigit())
    except (ValueError, OSError):
        return "", ()
