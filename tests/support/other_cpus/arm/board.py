"""A 64-bit ARM board without a board: Debian's Python for it, run by qemu's user emulation.

No mount, no root: packages come from the mirror that apt is configured with and are unpacked with dpkg.
Knows nothing of embeddings.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("python3", "python3-venv", "libstdc++6", "libgomp1")
# Releases of Debian with an emulator that knows newer CPUs; its programs need no library of their release.
NEWER = ("trixie", "bookworm-backports")
# The instruction sets that engines tell apart. SVE is left out of the newest: emulated, it takes minutes.
CPUS = {"cortex-a72": "arm", "cortex-a76": "arm-dotprod", "neoverse-v1,sve=off": "arm-dotprod"}
_NEWEST = "neoverse-v1"
_DONE = "complete-2"


class NoBoardError(Exception):
    """This machine cannot emulate a board; the message says why."""


@dataclass(frozen=True)
class Board:
    """What `prepare` has put together: the emulator and the board's file system."""

    emulator: Path
    root: Path

    def run(
        self, cpu: str, arguments: Sequence[str], environment: Mapping[str, str], timeout: float = 900
    ) -> "subprocess.CompletedProcess[str]":
        """Run the board's Python on a CPU. It sees this machine's files, and cannot start other programs."""
        python = self.root / f"usr/bin/python{self.python}"
        return subprocess.run(
            [str(self.emulator), "-cpu", cpu, "-L", str(self.root), str(python), *arguments],
            env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def programs(self, cpu: str, folder: Path) -> Path:
        """A folder for PATH in which `python3` and `uname` are the board's, as are programs they install.

        A script stands for the interpreter and starts the emulator under its own name, so that virtual
        environments, pip and installed commands find it as they would find the real one.
        """
        (folder / "usr/bin").mkdir(parents=True)
        (folder / "usr/lib").symlink_to(self.root / "usr/lib")
        real = self.root / f"usr/bin/python{self.python}"
        emulated = f'"{self.emulator}" -cpu {cpu} -L "{self.root}" -0 "$0" "{real}"'
        scripts = {
            "python3": f'exec {emulated} "$@"',
            "uname": """exec "${0%/*}/python3" -c 'import platform; print(platform.machine())'""",
        }
        for name, line in scripts.items():
            path = folder / "usr/bin" / name
            path.write_text(f"#!/bin/sh\n{line}\n")
            path.chmod(0o755)
        return folder / "usr/bin"

    @property
    def python(self) -> str:
        """Version of its Python, e.g. `3.11`."""
        return next(p.name for p in (self.root / "usr/lib").glob("python3.*")).removeprefix("python")

    def has(self, cpu: str) -> bool:
        """Whether the emulator knows a CPU."""
        return _knows(self.emulator, cpu)


def state_of(package: Path) -> str:
    """A hash of every module of a package, in folders too."""
    sources = sorted(package.rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def prepare(folder: Path) -> Board:
    """Put a board together in `folder`, or find it there; processes that want it at once wait for the first.

    Raises:
        NoBoardError: something it takes is missing; the message says what.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _prepare(folder)


def _prepare(folder: Path) -> Board:
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "AMD64"):
        raise NoBoardError("the emulated board is for x86-64 Linux")
    if missing := [tool for tool in ("apt-get", "dpkg") if not shutil.which(tool)]:
        raise NoBoardError(f"needs {' and '.join(missing)}, to fetch the board's packages")
    mirror, release = _mirror()
    root = folder / f"root-{release}"
    if not (folder / _DONE).exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _unpack(_packages(folder / "apt-arm64", mirror, release), root)
        _finish(root)
        (folder / _DONE).touch()
    board = Board(_emulator(folder, mirror), root)
    found = board.run("cortex-a72", ["-c", "import platform; print(platform.machine())"], {})
    if found.stdout.strip() != "aarch64":
        raise NoBoardError(f"the emulated board does not start: {found.stderr.strip()[:300]}")
    return board


def _mirror() -> tuple[str, str]:
    """The address and release that apt takes its main packages from."""
    wanted = ["apt-get", "indextargets", "--format", "$(COMPONENT) $(CODENAME) $(SITE)"]
    for line in sorted(set(_run([*wanted, "Created-By: Packages"]).splitlines())):
        component, release, site = line.split(" ", 2)
        if component == "main" and "-" not in release:
            return site, release
    raise NoBoardError("apt is not configured with a release of Debian")


def _emulator(folder: Path, mirror: str) -> Path:
    """One that knows the newest CPU, from here or from a newer release; else whichever is installed."""
    own = folder / "emulator/usr/bin/qemu-aarch64"
    installed = [Path(p) for n in ("qemu-aarch64-static", "qemu-aarch64") if (p := shutil.which(n))]
    for path in (own, *installed):
        if path.exists() and _knows(path, _NEWEST):
            return path
    for release in NEWER:
        try:
            _unpack(_tool(folder, mirror, release, ("qemu-user",)), folder / "emulator")
            return own
        except NoBoardError:
            continue
    if installed:
        return installed[0]
    raise NoBoardError("needs qemu-user-static, and no newer qemu-user can be fetched")


def _knows(emulator: Path, cpu: str) -> bool:
    told = subprocess.run([emulator, "-cpu", "help"], capture_output=True, text=True, check=False)
    return cpu.split(",")[0] in told.stdout.split()


def _tool(folder: Path, mirror: str, release: str, names: Sequence[str]) -> Path:
    """A folder with packages of this machine's architecture, without what they depend on."""
    apt = folder / f"apt-{release}"
    environment = _apt(apt, "amd64", mirror, release)
    _run(["apt-get", "update"], environment)
    _run(["apt-get", "download", *names], environment, apt)
    return apt


def _packages(apt: Path, mirror: str, release: str) -> Path:
    """A folder with the board's packages and all that they depend on."""
    environment = _apt(apt, "arm64", mirror, release)
    _run(["apt-get", "update"], environment)
    _run(["apt-get", "install", "--yes", "--download-only", *PACKAGES], environment)
    return apt / "cache/archives"


def _apt(folder: Path, architecture: str, mirror: str, release: str) -> dict[str, str]:
    """An apt of its own, which knows nothing of what is installed here."""
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text(f"deb {mirror} {release} main\n")
    settings = {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": folder / "lists",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "",
    }
    config = folder / "apt.conf"
    config.write_text("".join(f'{key} "{value}";\n' for key, value in settings.items()))
    return {**os.environ, "APT_CONFIG": str(config)}


def _unpack(packages: Path, into: Path) -> None:
    into.mkdir(parents=True, exist_ok=True)
    for package in sorted(packages.glob("*.deb")):
        _run(["dpkg", "-x", str(package), str(into)])


def _finish(root: Path) -> None:
    """ONNX Runtime does not load without these; the ones of this machine would say how many CPUs it has."""
    cpus = root / "sys/devices/system/cpu"
    cpus.mkdir(parents=True, exist_ok=True)
    for name in ("possible", "present"):
        (cpus / name).write_text("0-3\n")


def _run(command: Sequence[str], environment: Mapping[str, str] | None = None, at: Path | None = None) -> str:
    try:
        done = subprocess.run(command, env=environment, cwd=at, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as e:
        told = getattr(e, "stderr", None) or str(e)
        raise NoBoardError(f"{' '.join(command[:3])} failed: {told.strip()[-300:]}") from e
    return done.stdout
