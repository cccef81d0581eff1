"""The engines that the page runs graphs with: npm packages, fetched once by `compare-phone --fetch`.

Versions are pinned by the lock file beside this one's `npm` folder. Knows nothing of bundles or pages.
"""

import hashlib
import json
import shutil
import subprocess
import tempfile
from importlib import resources
from pathlib import Path

from embedding_runtime.errors import EngineError
from embedding_runtime.machine.user_cache import cache_folder

FETCH = "compare-phone --fetch"
# Those that the page may read from.
PACKAGES = ("onnxruntime-web", "@litertjs/core", "@litertjs/wasm-utils")
KINDS = {".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm"}
_PINS = ("package.json", "package-lock.json")
_LAST_LINES = 3


def folder() -> Path:
    """Where the packages of these pins belong; another version of this package may pin others."""
    pins = hashlib.sha256(b"".join(_pin(name) for name in _PINS)).hexdigest()[:12]
    return cache_folder() / "browser-engines" / pins


def versions() -> dict[str, str]:
    """The pinned version of each package."""
    pins: dict[str, str] = json.loads(_pin("package.json"))["dependencies"]
    return pins


def require() -> Path:
    """The folder of the packages.

    Raises:
        EngineError: they have not been fetched.
    """
    modules = folder() / "node_modules"
    if missing := [name for name in PACKAGES if not (modules / name / "package.json").is_file()]:
        raise EngineError(
            f"The page runs graphs with {' and '.join(missing)}, from npm, and {modules} has none. Fetch it "
            f"once with: {FETCH} (needs npm and a network; the folder can be copied from another machine)."
        )
    return modules


def fetch() -> Path:
    """Have npm put the packages in place, by the lock file and without running any script of theirs.

    Raises:
        EngineError: there is no npm, or it failed.  OSError: the cache cannot be written.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise EngineError("npm is not installed (it comes with Node.js 20 and newer).")
    place = folder()
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".fetching-") as temporary:
        made = Path(temporary) / "made"
        made.mkdir()
        for name in _PINS:
            (made / name).write_bytes(_pin(name))
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=made, capture_output=True, text=True, errors="replace")
        if done.returncode:
            reason = " ".join((done.stderr or done.stdout).strip().splitlines()[-_LAST_LINES:])
            raise EngineError(f"npm could not fetch the packages ({reason or 'no reason'}).")
        if place.exists():
            shutil.rmtree(place)
        made.rename(place)
    return require()


def file(packages: Path, package: str, name: str) -> Path | None:
    """A file of a package that the page may read; None for any other."""
    if package not in PACKAGES or Path(name).suffix not in KINDS:
        return None
    inside = (packages / package).resolve()
    path = (inside / name).resolve()
    return path if path.is_relative_to(inside) and path.is_file() else None


def with_addresses(path: Path) -> str:
    """A script whose imports of packages by name are by address: a browser's worker knows no names."""
    text = path.read_text(encoding="utf-8")
    return text.replace('from "@litertjs/wasm-utils"', 'from "/engines/@litertjs/wasm-utils/dist/index.js"')


def _pin(name: str) -> bytes:
    return resources.files(__package__).joinpath("npm", name).read_bytes()
