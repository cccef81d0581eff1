"""Checks that the bundle's files are the ones that the manifest describes.

A file is hashed on its first load; its size, mtime and inode are then recorded in the user's cache, so that
later loads only compare those. A cache that cannot be read or written costs time, never an error.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from embedding_runtime.bundle import FileRecord, Manifest
from embedding_runtime.errors import BundleError
from embedding_runtime.machine.user_cache import cache_folder

Verify = Literal["cached", "always"]
STAMPS_VERSION = 1


@dataclass
class Stamps:
    """What is known to be good on this machine about one bundle folder.

    `files` maps a name to [size, mtime_ns, inode, sha256]; `golden` holds the keys for which `check_golden`
    has passed.
    """

    path: Path
    files: dict[str, list[int | str]] = field(default_factory=dict)
    golden: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, bundle: Path) -> "Stamps":
        """Stamps of a bundle; empty when there are none or they cannot be read."""
        name = hashlib.sha256(os.fsencode(bundle.resolve())).hexdigest()[:24]
        path = cache_folder() / "stamps" / f"{name}.json"
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["version"] == STAMPS_VERSION:
                return cls(path, dict(data["files"]), list(data["golden"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass
        return cls(path)

    def write(self) -> None:
        """Write atomically; if the cache cannot be written, nothing happens."""
        import tempfile  # late: a cold start should not pay for it

        data = {"version": STAMPS_VERSION, "files": self.files, "golden": self.golden}
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=".stamps-")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as out:
                    json.dump(data, out)
                Path(temporary).replace(self.path)
            except OSError:
                Path(temporary).unlink(missing_ok=True)
                raise


def verify_files(
    bundle: Path, manifest: Manifest, names: Iterable[str], stamps: Stamps, verify: Verify
) -> None:
    """Compare files with their records, updating `stamps` (the caller writes them).

    Raises:
        BundleError: a file is missing, unreadable, of another size, or its SHA-256 differs.
    """
    for name in names:
        _verify_file(bundle / name, name, manifest.files[name], stamps, verify)


def _verify_file(path: Path, name: str, record: FileRecord, stamps: Stamps, verify: Verify) -> None:
    try:
        before = path.stat()
        if not stat.S_ISREG(before.st_mode):  # reading a pipe or a device never ends
            raise _damaged(path, "is not a file")
        if before.st_size != record.size:
            raise _damaged(path, f"has {before.st_size} bytes; the manifest says {record.size}")
        stamp: list[int | str] = [before.st_size, before.st_mtime_ns, before.st_ino, record.sha256]
        if verify == "cached" and stamps.files.get(name) == stamp:
            return
        digest = sha256(path)
    except FileNotFoundError as e:
        raise _damaged(path, "is missing") from e
    except OSError as e:
        raise BundleError(f"{path} cannot be read ({e}). Check its permissions and the disk.") from e
    if digest != record.sha256:
        stamps.files.pop(name, None)
        raise _damaged(path, f"has SHA-256 {digest[:12]}…; the manifest says {record.sha256[:12]}…")
    stamps.files[name] = stamp


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(path: Path, fault: str) -> BundleError:
    return BundleError(
        f"{path} {fault}. The bundle is damaged or was changed after export: copy or export it again."
    )
