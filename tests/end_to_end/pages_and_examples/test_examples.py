"""The examples run as they stand. The weights are random, so a text is only sure to be found by itself."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "runtime" / "examples"
MARS = "Mars, known for its reddish appearance, is often called the Red Planet."
NEEDS = {"search_folder": "usearch", "langchain_search": "langchain_core", "llamaindex_search": "llama_index"}


def run(name: str, *arguments: object) -> list[str]:
    """Lines that an example prints."""
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *map(str, arguments)],
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_every_example_is_tested() -> None:
    tested = {"tutorial", "classify", "deduplicate", *NEEDS}
    of_stores = {p.stem for p in EXAMPLES.glob("store_*.py")}  # in test_stores.py
    assert {p.stem for p in EXAMPLES.glob("*.py")} - of_stores == tested


def test_tutorial(tiny_bundle: Path) -> None:
    printed = run("tutorial", tiny_bundle)
    assert printed[0] == "Device: cpu"
    assert "Embedding 3 (shape): (64,)" in printed
    assert printed[-1] == "Shape with truncate_dim=32: (3, 32)"
    assert sum("with 'task: sentence similarity" in line for line in printed) == 2


def test_classify(tiny_bundle: Path) -> None:
    printed = run("classify", tiny_bundle)
    assert len(printed) == 3
    assert all(line.endswith(".") and "(" in line for line in printed)


def test_deduplicate(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("one thing\nquite another matter\none thing\n")
    assert run("deduplicate", tiny_bundle, tmp_path / "lines.txt", 0.999) == [
        "one thing",
        "quite another matter",
    ]


def test_search_folder(tiny_bundle: Path, tmp_path: Path) -> None:
    for name in ("mars", "venus", "saturn", "long"):
        (tmp_path / f"{name}.txt").write_text(f"{name} is a planet. " * (2000 if name == "long" else 1))
    first = run("search_folder", tiny_bundle, tmp_path, "mars")
    assert len(first) == 3
    assert all(line.endswith(".txt") for line in first)
    index = tmp_path / "search.usearch"
    before = index.stat().st_mtime_ns
    assert run("search_folder", tiny_bundle, tmp_path, "mars") == first
    assert index.stat().st_mtime_ns == before
    (tmp_path / "new.txt").write_text("something else")
    run("search_folder", tiny_bundle, tmp_path, "mars")
    assert index.stat().st_mtime_ns > before


@pytest.mark.parametrize("name", ["langchain_search", "llamaindex_search"])
def test_frameworks(name: str, tiny_bundle: Path) -> None:
    (printed,) = run(name, tiny_bundle, MARS)
    assert "planet" in printed.lower() or "Venus" in printed
