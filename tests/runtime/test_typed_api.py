"""The published types hold for the calls of `typed_api`, and fail for calls that are wrong."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

CALLS = Path(__file__).with_name("typed_api.py")
WRONG = """
from embedding_runtime import Embedder

embedder = Embedder.load("bundle", precision="int3")
embedder.encode(5)
embedder.encode("a", precision="int4")
embedder.encode("a", nonsense=1)
embedder.encode("a", convert_to_tensor=True)
embedder.encode_document(["a"], titles=[1])
embedder.similarity_fn_name = "foo"
"""


def check(tool: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", tool, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=CALLS.parents[2])


def test_mypy() -> None:
    done = check("mypy", "--strict", str(CALLS))
    assert done.returncode == 0, done.stdout


def test_mypy_sees_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(WRONG)
    done = check("mypy", "--strict", str(tmp_path / "wrong.py"))
    found = {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line}
    assert found == set(range(4, 11)), done.stdout


@pytest.mark.skipif(importlib.util.find_spec("pyright") is None, reason="pyright is not installed")
def test_pyright(tmp_path: Path) -> None:
    """In strict mode."""
    (tmp_path / "typed_api.py").write_text("# pyright: strict\n" + CALLS.read_text())
    done = check("pyright", "--pythonpath", sys.executable, str(tmp_path / "typed_api.py"))
    assert done.returncode == 0, done.stdout
