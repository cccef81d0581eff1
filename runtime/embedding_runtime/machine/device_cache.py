"""Files that an engine prepares once on a device, guarded so that they can never give a wrong vector.

An engine passes in how to build a folder of such files, how to open it, and how to check what was opened. The
guard is the same for all engines:

- an entry is named after everything that its files depend on (graph, engine, version, CPU, layout), and
  records the same inside;
- it is written to a temporary folder and renamed, so that no half-written entry exists under an entry's name,
  and several processes may build at once (the first one wins, the others use its entry);
- at every opening the size and CRC-32 of each file are compared with the entry's seal (files that hold only
  numbers are compared while the engine opens them, because they are used only afterwards), and what was
  opened must pass the caller's check (a golden vector: a checksum shows damage, not that the engine reads the
  file rightly);
- an entry in doubt is deleted and built again, once; if that fails too, or the folder cannot be written,
  there is no entry, and the caller runs without.

What only building needs is imported where it is used, so that a cold start does not pay for it.
"""

import errno
import hashlib
import json
import os
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from embedding_runtime.errors import EmbeddingError, EmbeddingWarning
from embedding_runtime.machine.user_cache import cache_folder
from embedding_runtime.notices import Notices

SEAL = "seal.json"
SEAL_VERSION = 1
# Suffix of files that hold nothing but numbers.
NUMBERS = ".data"
# An entry nobody has opened for this long goes when another one is built (a new engine orphans old ones).
KEPT_SECONDS = 30 * 24 * 3600.0
# A folder under way that no process holds goes after this long: a service that is killed as it builds and
# started again would fill the disk.
ABANDONED_SECONDS = 10.0
_BUILDING, _GOING = ".building-", ".going-"
_BLOCK = 1 << 18
_NOTICES = Notices()
_SPARE_BYTES = 64 << 20

T = TypeVar("T")


@dataclass(frozen=True)
class CacheKey:
    """Everything that prepared files depend on; different keys never share an entry.

    `graph` identifies the exact bytes of the graph, `cpu` the instruction set, `layout` the code that builds.
    """

    graph: str
    engine: str
    version: str
    cpu: str
    layout: str

    @property
    def name(self) -> str:
        """The entry's folder name."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def entries_folder() -> Path:
    """The folder of all entries; removing it while nothing runs is always safe."""
    return cache_folder() / "prepared"


def open_prepared(
    key: CacheKey,
    build: Callable[[Path], None],
    open_entry: Callable[[Path], T],
    check: Callable[[T], object],
) -> T | None:
    """Open the entry for `key`; build it if there is none or it is in doubt.

    Args:
        build: fills an empty folder; may raise OSError or EmbeddingError.
        open_entry: opens a folder that `build` has filled; may raise EmbeddingError.
        check: raises EmbeddingError if the opened entry computes wrong results.

    Returns:
        The checked result of `open_entry`; None if this device cannot have an entry.
    """
    entry = entries_folder() / key.name
    result = _open(entry, key, open_entry, check)
    if result is not None:
        return result
    from embedding_runtime.machine.process_memory import give_back_memory

    reason = "the prepared files do not pass their check"
    try:
        _replace(entry, key, build)
        give_back_memory()
        # Twice: another process that was building may have put its own entry in the place of this one.
        result = _open(entry, key, open_entry, check) or _open(entry, key, open_entry, check)
        if result is None:
            _discard(entry)
    except (OSError, EmbeddingError) as e:
        reason = str(e)
    if result is None:
        _NOTICES.once(
            entry.name,
            f"Packed weights cannot be kept in {entry.parent} ({reason}). Without them the graph gives the "
            "same vectors but takes more memory. Set XDG_CACHE_HOME to a folder that can be written, or "
            "load with device_cache=False. (Shown once.)",
            EmbeddingWarning,
        )
    return result


def require_room(folder: Path, needed: int) -> None:
    """Refuse to begin if the disk has too little room.

    Raises:
        OSError: the disk of `folder` has less than `needed` bytes and a reserve free.
    """
    import shutil

    free = shutil.disk_usage(folder).free
    if free < needed + _SPARE_BYTES:
        raise OSError(errno.ENOSPC, f"{needed + _SPARE_BYTES} bytes needed, {free} free", str(folder))


def require_file_size(needed: int) -> None:
    """Refuse to begin if the system lets no file of this process grow so far (`ulimit -f`).

    Raises:
        OSError: a file may have less than `needed` bytes.
    """
    if sys.platform == "win32":
        return
    import resource

    most, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if most != resource.RLIM_INFINITY and most < needed:
        raise OSError(errno.EFBIG, f"{needed} bytes needed, ulimit -f allows a file {most}")


def read_ahead(key: CacheKey) -> None:
    """Have the system read the entry for `key` from the disk in the background, if there is one."""
    if hasattr(os, "posix_fadvise"):
        threading.Thread(target=_read_ahead, args=(entries_folder() / key.name,), daemon=True).start()


def _read_ahead(entry: Path) -> None:
    with suppress(OSError):
        for path in sorted(entry.iterdir()):
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def intact(entry: Path, key: CacheKey) -> bool:
    """Whether an entry is for this key and its files are byte for byte the sealed ones."""
    sealed = _sealed(entry, key)
    return sealed is not None and _as_sealed(entry, sealed)


def _sealed(entry: Path, key: CacheKey) -> dict[str, int] | None:
    """CRC-32 of each file; None unless the seal is for this key and for files of these names and sizes."""
    try:
        seal = json.loads((entry / SEAL).read_text(encoding="utf-8"))
        sizes = {p.name: p.stat().st_size for p in entry.iterdir() if p.name != SEAL}
        if seal["version"] != SEAL_VERSION or seal["key"] != asdict(key):
            return None
        if sizes != {name: size for name, (size, _) in seal["files"].items()}:
            return None
        return {name: crc for name, (_, crc) in seal["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _open(
    entry: Path, key: CacheKey, open_entry: Callable[[Path], T], check: Callable[[T], object]
) -> T | None:
    sealed = _sealed(entry, key)
    if sealed is None:
        return None
    numbers = {name: crc for name, crc in sealed.items() if name.endswith(NUMBERS)}
    others = {name: crc for name, crc in sealed.items() if name not in numbers}
    with ThreadPoolExecutor(1) as pool:
        compared = pool.submit(_as_sealed, entry, numbers)
        try:
            if not _as_sealed(entry, others):
                return None
            opened = open_entry(entry)
            if not compared.result():
                return None
            check(opened)
        except (OSError, EmbeddingError):  # another process may be replacing it
            return None
    with suppress(OSError):
        (entry / SEAL).touch()
    return opened


def _replace(entry: Path, key: CacheKey, build: Callable[[Path], None]) -> None:
    """Build an entry and put it in place of the old one, unless a sound one has appeared in the meantime."""
    import tempfile

    entry.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _sweep(entry.parent)
    with (
        tempfile.TemporaryDirectory(dir=entry.parent, prefix=_BUILDING, ignore_cleanup_errors=True) as at,
        _held(Path(at)),
    ):
        folder = Path(at) / "entry"
        folder.mkdir()
        build(folder)
        files = {p.name: [p.stat().st_size, crc32(p)] for p in sorted(folder.iterdir())}
        seal: dict[str, Any] = {"version": SEAL_VERSION, "key": asdict(key), "files": files}
        (folder / SEAL).write_text(json.dumps(seal, indent=1), encoding="utf-8")
        if not intact(entry, key):
            _discard(entry)
            try:
                folder.rename(entry)
            except OSError:
                if not intact(entry, key):  # else another process was quicker
                    raise


def _discard(entry: Path) -> None:
    """Remove an entry; files that another process has mapped stay readable to it."""
    import shutil
    import tempfile

    with suppress(FileNotFoundError):
        if entry.is_dir() and not entry.is_symlink():
            going = Path(tempfile.mkdtemp(dir=entry.parent, prefix=_GOING))
            try:
                entry.rename(going / "entry")
            finally:
                shutil.rmtree(going, ignore_errors=True)
        else:
            entry.unlink()


def _sweep(folder: Path) -> None:
    """Remove entries that have not been touched for `KEPT_SECONDS`, and what interrupted builds have left."""
    import shutil

    for path in folder.iterdir():
        with suppress(OSError):
            stamp = path / SEAL
            age = time.time() - (stamp if stamp.exists() else path).stat().st_mtime
            under_way = path.name.startswith((_BUILDING, _GOING))
            if age > KEPT_SECONDS or (under_way and age > ABANDONED_SECONDS and not _is_held(path)):
                shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a folder's lock. The system frees it with the process, whatever ends that."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a disk without locks: see `_is_held`
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _is_held(folder: Path) -> bool:
    """Whether a process holds a folder's lock, or nobody can tell."""
    if sys.platform == "win32":
        return True
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _as_sealed(entry: Path, sealed: Mapping[str, int]) -> bool:
    try:
        return all(crc32(entry / name) == crc for name, crc in sealed.items())
    except OSError:
        return False


def crc32(path: Path) -> int:
    """CRC-32 of a file's bytes, read through one small buffer: about 30 ms per 100 MB."""
    buffer = memoryview(bytearray(_BLOCK))
    crc = 0
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            crc = zlib.crc32(buffer[:count], crc)
    return crc
