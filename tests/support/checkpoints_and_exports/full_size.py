"""`export-embedding` at full size in a process of its own: how long it took, what it wrote, what it held."""

import re
import subprocess
import sys
import time
from pathlib import Path

from embedding_export.options import ExportOptions
from embedding_runtime.bundle import load_manifest


def graph_sizes(bundle: Path) -> dict[str, int]:
    """Bytes of each graph with its external data; prints them."""
    manifest = load_manifest(bundle)
    sizes = {g.key: sum(manifest.files[f].size for f in (g.file, *g.external_data)) for g in manifest.graphs}
    print("".join(f"\n{key:12} {size / 1e6:8.1f} MB" for key, size in sizes.items()))
    return sizes


def exported(checkpoint: Path, bundle: Path, options: ExportOptions) -> tuple[float, dict[str, int]]:
    """Seconds and peaks of memory in kB of an export without parity, in a process of its own."""
    code = (
        "import sys; from pathlib import Path\n"
        "from embedding_export.checkpoint.checkpoint import load_checkpoint\n"
        "from embedding_export.options import ExportOptions\n"
        "from embedding_export.pipeline import export_bundle\n"
        f"export_bundle(load_checkpoint(sys.argv[1]), Path(sys.argv[2]), {options!r}, 'measuring')\n"
        "assert 'torch' not in sys.modules"
    )
    started = time.monotonic()
    running = subprocess.Popen([sys.executable, "-c", code, str(checkpoint), str(bundle)])
    peaks = {"RssAnon": 0, "VmRSS": 0}
    while running.poll() is None:
        for name, kb in memory(running.pid).items():
            peaks[name] = max(peaks.get(name, 0), kb)
        time.sleep(0.01)
    seconds = time.monotonic() - started
    print(f"\n{seconds:.1f} s, peaks in kB: {peaks}")
    assert running.returncode == 0
    return seconds, peaks


def memory(pid: int) -> dict[str, int]:
    """Resident memory in kB, as the system counts it; empty when the process has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return {}
    return {name: int(kb) for name, kb in re.findall(r"^(RssAnon|VmRSS):\s+(\d+)", status, re.M)}
