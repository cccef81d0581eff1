"""Fixtures that several test modules share."""

import shutil
from pathlib import Path

import pytest
import standin


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny stand-in with all defaults; tests must not change it."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    standin.write(folder, standin.Options())
    return folder


@pytest.fixture
def editable(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny stand-in that the test may change."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


@pytest.fixture(scope="session")
def full_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full-size stand-in (1.2 GB, about ten seconds), for tests marked `full`; they must not change it."""
    folder = tmp_path_factory.mktemp("checkpoints") / "full"
    standin.write(folder, standin.Options(size="full"))
    return folder
