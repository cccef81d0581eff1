"""A pytest plugin for the emulated board: the fixtures of conftest.py, over bundles made beforehand."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedding_runtime import Embedder


@pytest.fixture(scope="session")
def tiny_bundle() -> Path:
    return Path(os.environ["ARM_BUNDLES"]) / "tiny"


@pytest.fixture(scope="session")
def litert_bundle() -> Path:
    return Path(os.environ["ARM_BUNDLES"]) / "litert"


@pytest.fixture(scope="module")
def embedder(tiny_bundle: Path) -> Iterator[Embedder]:
    with Embedder.load(tiny_bundle, threads=1) as opened:
        yield opened


@pytest.fixture
def fresh(tiny_bundle: Path) -> Iterator[Embedder]:
    with Embedder.load(tiny_bundle, threads=1) as opened:
        yield opened
