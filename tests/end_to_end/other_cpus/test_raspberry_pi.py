"""`runtime/RASPBERRY_PI.md`: every command in its order, here and on an emulated board; and the lean size.

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
from arm.board import NoBoardError, prepare
from conftest import assumed

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "runtime/RASPBERRY_PI.md").read_text(encoding="utf-8")
BLOCKS = [(m[1], m[2]) for m in re.finditer(r"^<!-- (\w+) -->\n```sh\n(.*?)^```$", PAGE, re.M | re.S)]
SIZES = [int(m[1]) for m in re.finditer(r"^\| .*(?:pip install|make lean).* \| (\d+) \|$", PAGE, re.M)]
# What the lean set may take at most, with numpy and onnxruntime.
LEAN_MEGABYTES = 90
BOARD_WHEELS = ["--only-binary=:all:", "--python-version", "3.11"]
BOARD_WHEELS += [f"--platform={tag}_aarch64" for tag in ("manylinux_2_28", "manylinux_2_27", "manylinux2014")]
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def on_the_computer(code: str, home: Path, bundle: Path) -> None:
    """Its commands, except that the bundle is there and the board's home is a folder here."""
    for line in code.splitlines():
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


def follow(tmp_path: Path, checkpoint: Path, path: str, machine: str, python: str) -> str:
    """Do what the page says and return what the board prints; its programs are those on `path`."""
    home, bundle = tmp_path / "home", tmp_path / "my-bundle"
    home.mkdir()
    export_bundle(load_checkpoint(checkpoint), bundle, ExportOptions(("int8",)), assumed)
    # PATH alone of this machine's environment: the board has no variables of ours.
    environment = {"PATH": path, "HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "LANG": "C.UTF-8"}
    told = ""
    for place, written in BLOCKS:
        code = written.replace("aarch64", machine).replace("3.11", python)
        if place == "computer":
            on_the_computer(code, home, bundle)
            continue
        again = ". embedding/bin/activate\n" if (home / "embedding").exists() else ""
        command = ["bash", "-euo", "pipefail", "-c", again + code]
        done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{code}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        told += done.stdout
    return told


def check(told: str, machine: str) -> None:
    assert told.startswith(f"{machine}\nPython 3.")
    assert "fine       nothing is wrong" in told
    assert len(re.findall(r"^-?\d\.\d{3}  notes/\w+\.txt$", told, re.M)) == 3


@pytest.mark.arm
@pytest.mark.skipif(sys.platform != "linux", reason="the page is for Linux")
def test_the_page_here(tiny_checkpoint: Path, tmp_path: Path) -> None:
    machine = platform.machine()
    check(follow(tmp_path, tiny_checkpoint, ENVIRONMENT["PATH"], machine, HERE), machine)


@pytest.mark.arm
def test_the_page_on_a_board(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A Raspberry Pi 5's instruction set: virtual environment, pip, doctor, index, search, the lean set."""
    try:
        board = prepare(ROOT / "build" / "arm")
    except NoBoardError as e:
        pytest.skip(str(e))
    programs = board.programs("cortex-a76", tmp_path / "programs")
    path = f"{programs}{os.pathsep}/usr/bin{os.pathsep}/bin"
    check(follow(tmp_path, tiny_checkpoint, path, "aarch64", board.python), "aarch64")


@pytest.mark.arm
def test_installed_sizes(tmp_path: Path) -> None:
    """Of the board's own wheels, in the three forms that the page shows."""
    lean, wheelhouse = tmp_path / "lean", tmp_path / "wheelhouse"
    folders = [f"LEAN={lean}", f"WHEELHOUSE={wheelhouse}"]
    run(["make", "-s", "lean", "ARCH=aarch64", "PYTHON=3.11", *folders])
    (wheel,) = wheelhouse.glob("embedding_edge-*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-compile", *BOARD_WHEELS]
    found: list[float] = []
    for form in ([str(wheel)], ["--no-deps", str(wheel), "numpy", "onnxruntime"]):
        folder = tmp_path / f"form-{len(found)}"
        run([*pip, "--find-links", str(wheelhouse), "--target", str(folder), *form])
        found.append(megabytes(folder))
    found.append(megabytes(lean))
    assert found == pytest.approx(SIZES, abs=3)
    assert found[-1] <= LEAN_MEGABYTES


def run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def megabytes(folder: Path) -> float:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6


def test_the_page_names_only_what_there_is() -> None:
    for target in re.findall(r"^make (\w+)", PAGE, re.M):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)
    assert {place for place, _ in BLOCKS} == {"computer", "board"}
    assert len(SIZES) == 3
