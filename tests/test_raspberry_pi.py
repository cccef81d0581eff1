"""`runtime/RASPBERRY_PI.md`: every command in its order, with this machine's wheels; and the lean size.

Part of `make test-arm`, since it installs from the network.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import assumed

from embedding_export.checkpoint import load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "runtime/RASPBERRY_PI.md").read_text(encoding="utf-8")
BLOCKS = [(m[1], m[2]) for m in re.finditer(r"^<!-- (\w+) -->\n```sh\n(.*?)^```$", PAGE, re.M | re.S)]
# What the page promises of the lean set, with numpy and onnxruntime.
LEAN_BYTES = 90_000_000
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def as_here(text: str) -> str:
    """The page's commands for the architecture and the Python of this machine."""
    return text.replace("aarch64", platform.machine()).replace("3.11", HERE)


def on_the_computer(code: str, home: Path, bundle: Path) -> None:
    """Its commands, except that the bundle is there and the board's home is a folder here."""
    for line in as_here(code).splitlines():
        words = line.split()
        if words[0] == "scp":
            to = words[-1].removeprefix("pi@raspberrypi.local:")
            for name in words[2:-1]:
                source = bundle if name == "my-bundle" else ROOT / name
                shutil.copytree(source, home / (to or source.name), dirs_exist_ok=True)
        elif words[0] == "make":
            subprocess.run(["make", "-s", *words[1:]], cwd=ROOT, env=ENVIRONMENT, check=True)
        else:
            assert words[0] == "export-embedding", "a command the test does not know"


@pytest.mark.arm
@pytest.mark.skipif(sys.platform != "linux", reason="the page is for Linux")
def test_the_page(tiny_checkpoint: Path, tmp_path: Path) -> None:
    home, bundle = tmp_path / "home", tmp_path / "my-bundle"
    home.mkdir()
    export_bundle(load_checkpoint(tiny_checkpoint), bundle, ExportOptions(("int8",)), assumed)
    environment = {**ENVIRONMENT, "HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    told = ""
    for place, code in BLOCKS:
        if place == "computer":
            on_the_computer(code, home, bundle)
            continue
        again = ". embedding/bin/activate\n" if (home / "embedding").exists() else ""
        command = ["bash", "-euo", "pipefail", "-c", again + as_here(code)]
        done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{code}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        told += done.stdout
    assert "fine       nothing is wrong" in told
    assert len(re.findall(r"^-?\d\.\d{3}  notes/\w+\.txt$", told, re.M)) == 3


@pytest.mark.arm
def test_the_lean_set_is_small(tmp_path: Path) -> None:
    """The board's own wheels."""
    lean = tmp_path / "lean"
    folders = [f"LEAN={lean}", f"WHEELHOUSE={tmp_path / 'wheelhouse'}"]
    make = ["make", "-s", "lean", "ARCH=aarch64", "PYTHON=3.11", *folders]
    done = subprocess.run(make, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sum(p.stat().st_size for p in lean.rglob("*") if p.is_file()) <= LEAN_BYTES


def test_the_page_names_only_what_there_is() -> None:
    for target in re.findall(r"^make (\w+)", PAGE, re.M):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)
    assert {place for place, _ in BLOCKS} == {"computer", "board"}
