"""Recipes for vector stores, run as they stand with the real libraries: they find what numpy finds."""

import importlib.util
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from postgres import postgres

from embedding_runtime import Embedder

EXAMPLES = Path(__file__).parents[3] / "runtime" / "examples"
STORES = {
    "store_usearch": ("usearch",),
    "store_faiss": ("faiss",),
    "store_sqlite_vec": ("sqlite_vec", "apsw"),
    "store_lancedb": ("lancedb",),
    "store_qdrant": ("qdrant_client",),
    "store_pgvector": ("psycopg", "pgvector"),
}
# pgvector has no int8.
SMALL = {store: "half" if store == "store_pgvector" else "int8" for store in STORES}
WORDS = ["red", "planet", "ocean", "deep", "river", "stone", "light", "plant", "code", "lock"]
LINES = [f"{a} {b} {c}" for a in WORDS for b in WORDS for c in ("near", "far", "old")]
QUESTION = "which ocean is deep"


def command(store: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    for library in STORES[store]:
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed (pip install 'embedding-edge[stores]')")
    return subprocess.run(
        [sys.executable, EXAMPLES / f"{store}.py", *map(str, arguments)],
        env={**os.environ, "PYTHONWARNINGS": "ignore", "LANCE_LOG": "error"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "lines.txt"
    path.write_text("\n".join(LINES))
    return path


@pytest.fixture(scope="module")
def expected(tiny_bundle: Path) -> list[tuple[float, str]]:
    """Score and text of the best lines, by numpy."""
    with Embedder(tiny_bundle, threads=1) as embedder:
        scores = embedder.encode_document(LINES) @ embedder.encode_query(QUESTION)
    return [(float(scores[i]), LINES[i]) for i in np.argsort(-scores, kind="stable")[:3]]


def test_every_recipe_is_tested() -> None:
    assert {p.stem for p in EXAMPLES.glob("store_*.py")} == set(STORES)


@pytest.fixture
def index(store: str, tmp_path: Path) -> Iterator[str]:
    """Where a store's recipe keeps its vectors: nothing is there yet."""
    if store == "store_pgvector":
        with postgres() as connection:
            yield connection
    else:
        yield str(tmp_path / "index")


@pytest.mark.parametrize("store", STORES)
def test_a_store(
    store: str,
    index: str,
    tiny_bundle: Path,
    other_bundle: Path,
    lines: Path,
    expected: list[tuple[float, str]],
    tmp_path: Path,
) -> None:
    """Built, searched, opened again and searched; refused to a bundle of another space."""
    arguments = (lines, index, QUESTION)
    first = command(store, tiny_bundle, *arguments)
    assert first.returncode == 0, first.stderr
    found: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for line in first.stdout.splitlines():
        kind, spelled, text = line.split(" ", 2)
        found[kind].append((float(spelled), text))
    assert set(found) == {"float", SMALL[store], "binary"}
    for kind, hits in found.items():
        assert len(hits) == 3
        for (score, text), (wanted, best) in zip(hits, expected, strict=True):
            # Candidates of bits may miss a line; what is found has its true score all the same.
            assert kind == "binary" or text == best or score == pytest.approx(wanted, abs=1e-4)
    with Embedder(tiny_bundle, threads=1) as embedder:
        query = embedder.encode_query(QUESTION)
        for hits in found.values():
            for score, text in hits:
                assert score == pytest.approx(float(embedder.encode_document(text) @ query), abs=1e-4)
    arguments = (tmp_path / "no file, so not read again", *arguments[1:])
    again = command(store, tiny_bundle, *arguments)
    assert again.stdout == first.stdout, again.stderr
    refused = command(store, other_bundle, *arguments)
    assert refused.returncode != 0
    assert "Scores between them mean nothing" in refused.stderr
