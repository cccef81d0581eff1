"""This machine as one without AVX-512 and VNNI: hidden from a process, or emulated by qemu."""

import functools
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("without_vnni.c")
FLAGS = "fpu sse sse2 ssse3 sse4_1 sse4_2 avx avx2 fma f16c bmi1 bmi2"
CPUINFO = f"processor\t: 0\nmodel name\t: Haswell\nflags\t\t: {FLAGS}\n"
_QEMU = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")


@functools.cache
def command() -> tuple[str, ...] | None:
    """What goes before a command that is to run on such a machine; None if neither way is open here.

    Hidden, a process runs at the CPU's own speed.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None
    folder = Path(tempfile.mkdtemp(prefix="avx2-"))
    (folder / "proc").mkdir()
    cpuinfo, library = folder / "proc" / "cpuinfo", folder / "without_vnni.so"
    cpuinfo.write_text(CPUINFO)
    if shutil.which("cc"):
        build = ["cc", "-O2", "-Wall", "-shared", "-fPIC", str(SOURCE), "-o", str(library), "-ldl"]
        subprocess.run(build, check=True)
        hidden = ("env", f"LD_PRELOAD={library}", f"WITHOUT_VNNI_CPUINFO={cpuinfo}")
        if subprocess.run([*hidden, "true"], capture_output=True).returncode == 0:
            return hidden
    return (_QEMU, "-cpu", "Haswell", "-L", str(folder)) if _QEMU else None


def main() -> int:
    """Run the command that the arguments are on such a machine; 77 if there is none."""
    before = command()
    if before is None:
        sys.stderr.write("needs Linux on x86-64, and a CPU whose CPUID can trap or qemu-user-static\n")
        return 77
    return subprocess.run([*before, *sys.argv[1:]]).returncode


if __name__ == "__main__":
    sys.exit(main())
