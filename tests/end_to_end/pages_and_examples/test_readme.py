"""README is executable: its commands and its Python run, and the page of options is the commands' own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Heading → the runnable blocks under it, in order, as (language, code).
BLOCKS = [(m[1], m[2]) for m in re.finditer(r"^```(sh|python)\n(.*?)^```$", README, re.M | re.S)]
COMMANDS = (ROOT / "runtime" / "COMMANDS.md").read_text(encoding="utf-8")
HELP = re.findall(r"<!-- help: ([\w -]+) -->\n```\n(.*?)```", COMMANDS, re.S)
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "COLUMNS": "100",
    "NO_COLOR": "1",
}


def test_every_block_runs_in_order(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """As one shell session and one Python session, in a folder that has `my-checkpoint`."""
    (tmp_path / "my-checkpoint").symlink_to(tiny_checkpoint)
    python = ""
    for language, block in BLOCKS:
        code = re.sub(r"(dim[= ])256", r"\g<1>64", block)  # all that the stand-in's vectors have
        if "embedding_export" in code:  # alone: torch and transformers warn of things of their own
            command = [sys.executable, "-c", code]
        elif language == "python":
            python += code
            command = [sys.executable, "-W", "error", "-c", python]
        else:
            command = ["bash", "-euo", "pipefail", "-c", code]
        done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    assert {"my-bundle", "vectors.npy", "vectors.jsonl"} <= {p.name for p in tmp_path.iterdir()}
    assert (tmp_path / "my-bundle" / "parity.json").is_file()


@pytest.mark.parametrize(("command", "shown"), HELP, ids=[c for c, _ in HELP])
def test_the_help_shown_is_the_help_printed(command: str, shown: str) -> None:
    printed = subprocess.run(
        [*command.split(), "--help"], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert printed.stdout.split() == shown.split(), "paste the new --help into runtime/COMMANDS.md"


def test_every_command_has_its_help_shown() -> None:
    scripts = re.search(r"\[project\.scripts\]\n(.*?)\n\n", (ROOT / "pyproject.toml").read_text(), re.S)
    assert scripts
    assert {c for c, _ in HELP if " " not in c} == set(re.findall(r"^([\w-]+) =", scripts[1], re.M))


def test_the_front_page_is_short() -> None:
    assert len(README.splitlines()) < 220


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
