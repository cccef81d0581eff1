"""A folder exists whole or not at all."""

import os
import shutil
from pathlib import Path

import pytest

from embedding_export.bundle.staging import require_space, staged
from embedding_export.errors import ExportError
from embedding_export.options import Existing


def _bundle(path: Path, text: str = "old") -> Path:
    path.mkdir()
    (path / "manifest.json").write_text(text)
    return path


def test_the_folder_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "bundle"
    with staged(target, "refuse") as staging:
        (staging.path / "manifest.json").write_text("new")
        assert not target.exists()
    assert (target / "manifest.json").read_text() == "new"
    assert [p.name for p in target.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), staged(tmp_path / "bundle", "refuse") as staging:
        (staging.path / "manifest.json").write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_the_old_bundle(tmp_path: Path) -> None:
    target = _bundle(tmp_path / "bundle")
    with pytest.raises(RuntimeError), staged(target, "replace") as staging:
        (staging.path / "manifest.json").write_text("half")
        raise RuntimeError
    assert (target / "manifest.json").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_a_rename_that_fails_puts_the_old_bundle_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = _bundle(tmp_path / "bundle")
    true = Path.rename

    def rename(self: Path, to: Path) -> Path:
        if ".partial-" in self.name:
            raise OSError("the disk went away")
        return true(self, to)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match=r"went away"), staged(target, "replace") as staging:
        (staging.path / "manifest.json").write_text("new")
    assert (target / "manifest.json").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_replacing_and_extending(tmp_path: Path) -> None:
    target = _bundle(tmp_path / "bundle")
    (target / "other").write_text("kept")
    with staged(target, "extend") as staging:
        (staging.path / "manifest.json").unlink()
        (staging.path / "manifest.json").write_text("extended")
    assert {p.name: p.read_text() for p in target.iterdir()} == {"manifest.json": "extended", "other": "kept"}
    with staged(target, "replace") as staging:
        (staging.path / "manifest.json").write_text("new")
    assert {p.name: p.read_text() for p in target.iterdir()} == {"manifest.json": "new"}


def test_what_may_not_be_overwritten_is_refused(tmp_path: Path) -> None:
    target = _bundle(tmp_path / "bundle")
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "cat.jpg").write_text("x")
    with pytest.raises(ExportError, match=r"exists already.*--overwrite"), staged(target, "refuse"):
        pass
    with pytest.raises(ExportError, match=r"is not a bundle"), staged(foreign, "replace"):
        pass
    with pytest.raises(ExportError, match=r"no bundle at.*--add"), staged(tmp_path / "none", "extend"):
        pass
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(ExportError, match=r"Cannot write beside"), staged(file / "bundle", "refuse"):
        pass
    assert (foreign / "cat.jpg").read_text() == "x"


@pytest.mark.parametrize("existing", ["refuse", "replace", "extend"])
def test_two_at_once(tmp_path: Path, existing: Existing) -> None:
    """The one that is done first stays; the other says so and leaves nothing."""
    target = tmp_path / "bundle"
    if existing != "refuse":
        _bundle(target)
    with pytest.raises(ExportError, match=r"Another process has written"), staged(target, existing) as slow:
        (slow.path / "late").write_text("late")
        theirs = _bundle(tmp_path / "theirs", "theirs")
        if target.exists():
            target.rename(tmp_path / "gone")
        theirs.rename(target)
    assert {p.name: p.read_text() for p in target.iterdir()} == {"manifest.json": "theirs"}
    assert not list(tmp_path.glob(".*"))


def test_an_unwritable_parent_is_named(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(ExportError, match=r"Cannot write beside"), staged(tmp_path / "bundle", "refuse"):
        pass


def test_too_little_space_is_said_before_any_work(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    require_space(tmp_path / "not" / "yet", free // 2)
    with pytest.raises(ExportError, match=r"MB free.*writes about"):
        require_space(tmp_path, free * 2)
