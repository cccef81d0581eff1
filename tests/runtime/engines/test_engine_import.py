"""ONNX Runtime beside a library that carries its own C++ runtime: no order of imports ends the process."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from embedding_runtime.machine.cpp_locale import number_facets

LOADED = """
from embedding_runtime.errors import EngineError
try:
    from embedding_runtime import Embedder
    vector = Embedder.load(sys.argv[1], threads=1).encode("a")
    print("vector", vector.shape[0])
except EngineError as e:
    print("refused", e)
"""
SEARCHED = """
import numpy as np
from usearch.index import Index
index = Index(ndim=3, metric="cos", dtype="f32")
index.add(0, np.ones(3, np.float32))
"""


def ran(*parts: str, bundle: Path) -> "subprocess.CompletedProcess[str]":
    code = "\n".join(["import sys, warnings", "warnings.simplefilter('ignore')", *parts])
    return subprocess.run([sys.executable, "-c", code, str(bundle)], capture_output=True, text=True)


def crashes() -> bool:
    """Whether the installed usearch and onnxruntime end a process in this order."""
    return subprocess.run([sys.executable, "-c", "import usearch.compiled, onnxruntime"]).returncode < 0


@pytest.fixture(autouse=True)
def usearch() -> None:
    if importlib.util.find_spec("usearch") is None:
        pytest.skip("usearch is not installed")


@pytest.mark.parametrize("first", ["import embedding_runtime", "import onnxruntime", LOADED])
def test_ours_first(first: str, tiny_bundle: Path) -> None:
    """The engine itself is only imported when a bundle is loaded, after the other library."""
    done = ran(first, SEARCHED, LOADED, bundle=tiny_bundle)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "vector 64"


def test_theirs_first_is_refused(tiny_bundle: Path) -> None:
    """Only where it would be the end: other versions of it do no harm."""
    done = ran(SEARCHED, LOADED, bundle=tiny_bundle)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    if crashes():
        assert line.startswith("refused onnxruntime would end the process")
        assert "above `import usearch`" in line
    else:
        assert line == "vector 64"


def test_facets_have_numbers_of_their_own() -> None:
    assert number_facets()
