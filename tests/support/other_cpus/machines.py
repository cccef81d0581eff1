"""Other machines than this one, as far as the runtime asks: their files, and their CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from embedding_runtime.engines import onnx_session
from embedding_runtime.machine import cpu


def put(root: Path, files: dict[str, str | int]) -> Path:
    """A machine's tree, as far as the files say."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


@contextmanager
def another_cpu(machine: str, cpuinfo: str, folder: Path) -> Iterator[Path]:
    """Within the block this is a Linux machine with such a CPU; gives the file that says so.

    Graphs still run on the real one, with its settings: those of another may saturate on it.
    """
    file, real = folder / "cpuinfo", cpu.cpu_kind()
    file.write_text(cpuinfo)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_session, "cpu_kind", lambda: real)
        patch.setattr(cpu, "CPUINFO", file)
        patch.setattr("platform.machine", lambda: machine)
        patch.setattr("platform.system", lambda: "Linux")
        cpu.cpu_kind.cache_clear()
        cpu.cpu_fingerprint.cache_clear()
        try:
            yield file
        finally:
            cpu.cpu_kind.cache_clear()
            cpu.cpu_fingerprint.cache_clear()
