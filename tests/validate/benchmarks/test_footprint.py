"""The benchmark of cold starts and memory; and processes that share what they map."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from embedding_runtime.machine.process_memory import process_memory
from embedding_validate.benchmarks import footprint

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs /proc")
HOLD = """
import sys
from embedding_runtime import Embedder
embedder = Embedder(sys.argv[1], threads=1)
embedder.encode("text")
print("ready", flush=True)
sys.stdin.read()
"""


def test_every_graph_is_shown_and_held_to_its_budget(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(footprint, "LENGTHS", (16,))
    assert footprint.main([str(tiny_bundle)]) == 0
    assert "onnx/fp32 16 tokens: " in capfd.readouterr().out
    monkeypatch.setattr(footprint, "BUDGETS", {"onnx/fp32": {16: 1_000_000}})
    assert footprint.main([str(tiny_bundle)]) == 1


def test_the_page_states_the_budgets() -> None:
    page = (Path(__file__).parents[3] / "runtime/RASPBERRY_PI.md").read_text(encoding="utf-8")
    stated = {}
    for key, cells in re.findall(r"^\| `((?:onnx|litert)/\w+)` \| ([\d |]+) \|$", page, re.M):
        figures = zip(footprint.LENGTHS, cells.split("|"), strict=True)
        stated[key] = {length: int(cell) * 1_000_000 for length, cell in figures if cell.strip()}
    assert stated == footprint.BUDGETS


@pytest.mark.parametrize(("format", "other"), [("onnx", "litert"), ("litert", "onnx")])
def test_a_start_loads_nothing_of_another_engine(format: str, other: str, litert_bundle: Path) -> None:
    code = (
        "import sys; from embedding_runtime import Embedder\n"
        "Embedder(sys.argv[1], format=sys.argv[2], precision='fp32', threads=1).encode('a')\n"
        "print([name for name in sys.modules if sys.argv[3] in name])"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(litert_bundle), format, other]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_processes_share_what_they_map(tiny_bundle: Path) -> None:
    """Each counts for less than it has resident: the engine's code and the weights are there once."""
    command, pipe = [sys.executable, "-W", "ignore", "-c", HOLD, str(tiny_bundle)], subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    try:
        for process in processes:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            memory = process_memory(process.pid)
            assert memory
            mapped = memory.resident - memory.anonymous
            assert memory.proportional - memory.anonymous < 0.75 * mapped
    finally:
        for process in processes:
            process.communicate()
