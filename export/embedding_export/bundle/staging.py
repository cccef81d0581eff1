"""Writes a folder that exists whole or not at all: into a temporary sibling, which is then renamed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from embedding_export.errors import ExportError
from embedding_export.options import Existing


@dataclass
class Staging:
    """A folder under construction; `keep` moves it aside instead of having it deleted."""

    path: Path
    kept_as: Path | None = None

    def keep(self, destination: Path) -> None:
        """Move what was written so far to `destination`, which must not exist."""
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(self.path, destination)
        self.kept_as = destination


@contextmanager
def staged(target: Path, existing: Existing) -> Iterator[Staging]:
    """Yield a temporary sibling of `target` that takes its name when the block ends without an error.

    `extend` starts from the target's files (hard links: writers must replace files, never change them in
    place).

    Raises:
        ExportError: the target exists (`refuse`), is missing (`extend`), its parent cannot be written, or
            another process has written the target meanwhile.
    """
    check_target(target, existing)
    before = _state(target)
    path = target.parent / f".{target.name}.partial-{os.getpid()}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir()
    except OSError as e:
        raise ExportError(
            f"Cannot write beside {target} ({e.strerror}). Choose a folder you may write to."
        ) from e
    staging = Staging(path)
    try:
        if existing == "extend":
            _link_tree(target, path)
        yield staging
        if _state(target) != before:
            raise ExportError(
                f"Another process has written {target} in the meantime; it is left as it is. Export again, "
                "or give another name."
            )
        _take_name(path, target)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def check_target(target: Path, existing: Existing) -> None:
    """Refuse a target that `existing` does not allow.

    Raises:
        ExportError: see `staged`.
    """
    if existing == "extend" and not target.is_dir():
        raise ExportError(f"There is no bundle at {target} to add to. Leave out --add to create it.")
    if existing == "refuse" and target.exists() and not _is_empty_folder(target):
        raise ExportError(
            f"{target} exists already. Use --overwrite to replace the bundle, --add to add a graph to it, "
            "or give another name."
        )
    if existing != "refuse" and target.exists() and not (target / "manifest.json").is_file():
        raise ExportError(f"{target} exists and is not a bundle (no manifest.json). Give another name.")


def require_space(folder: Path, needed: int) -> None:
    """Refuse to start if `needed` bytes do not fit below `folder` (or its nearest existing parent).

    Raises:
        ExportError: the disk has less free space.
    """
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ExportError(
            f"The disk of {folder} has {free / 1e6:,.0f} MB free; "
            f"this export writes about {needed / 1e6:,.0f} MB. Free some space or choose another disk."
        )


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _state(target: Path) -> tuple[int, int] | None:
    """Identifies the bundle that has this name now; None if there is none."""
    try:
        status = (target / "manifest.json").stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _link_tree(source: Path, destination: Path) -> None:
    def link(src: str, dst: str) -> None:
        try:
            os.link(src, dst)
        except OSError:  # a file system without hard links
            shutil.copy2(src, dst)

    shutil.copytree(source, destination, copy_function=link, dirs_exist_ok=True)


def _take_name(path: Path, target: Path) -> None:
    """Rename; a target in the way is moved aside first and put back if the rename fails."""
    _sync(path)
    aside = target.parent / f".{target.name}.replaced-{os.getpid()}"
    if target.exists():
        target.rename(aside)
    try:
        path.rename(target)
    except BaseException:
        if aside.exists():
            aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Flush the files' contents to the disk before the rename: a power cut must not leave an empty bundle."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as f:
                os.fsync(f.fileno())
