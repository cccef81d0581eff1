"""`python -m embedding_validate.compare.peers BUNDLE CHECKPOINT DIR`: compares a bundle with other tools.

It makes an environment for each peer from its pins (validate/peers/*.txt in a clone), then runs
`compare-embedding` with all of them. Peers that cannot be installed are left out, and the results say why.
Arguments after `--` go to compare-embedding.
"""

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import embedding_validate
from embedding_validate.compare import cli as compare

PEERS = Path(embedding_validate.__file__).parents[1] / "peers"
_LAST_LINES = 3


@dataclass(frozen=True)
class Peer:
    """An environment by the name of its pins, the script that runs in it, and the systems it serves."""

    environment: str
    script: str
    systems: tuple[str, ...]


KNOWN = (
    Peer("optimum", "st_onnx_worker.py", ("st-onnx-fp32", "st-onnx-int8")),
    Peer("openvino", "openvino_worker.py", ("openvino-int8",)),
    Peer("llama", "llama_worker.py", ("llama.cpp-Q8_0", "llama.cpp-Q4_0")),
    Peer("fastembed", "fastembed_worker.py", ("fastembed-int8",)),
)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns compare-embedding's status."""
    options = _parser().parse_args(argv)
    arguments = [str(options.bundle), "--reference", str(options.checkpoint), "--output", str(options.output)]
    peers, left_out = prepare_environments(options.environments)
    return compare.main([*arguments, "--bf16", *peers, *options.rest], left_out)


def prepare_environments(environments: Path) -> tuple[list[str], dict[str, str]]:
    """`--peer` arguments for every system whose environment exists or can be made, and the reasons for the
    others."""
    arguments: list[str] = []
    left_out: dict[str, str] = {}
    for peer in KNOWN:
        folder = environments / peer.environment
        reason = None if ready(folder) else install(PEERS / f"{peer.environment}.txt", folder)
        if reason is not None:
            _say(f"{', '.join(peer.systems)}: not installed here, left out ({reason})")
            left_out |= dict.fromkeys(peer.systems, f"not installed here ({reason})")
            continue
        python = folder / "bin" / "python"
        arguments += [f"--peer={system}={python}={PEERS / peer.script}" for system in peer.systems]
    return arguments, left_out


def ready(folder: Path) -> bool:
    """Whether an environment was made completely."""
    return (folder / ".ready").exists()


def install(pins: Path, folder: Path) -> str | None:
    """Make an environment from its pins; returns the reason if that fails."""
    if not pins.is_file():
        return f"there is no {pins.name}; peers are measured in a clone"
    _say(f"making {folder}")
    python = folder / "bin" / "python"
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "-r", str(pins)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode:
            return " ".join((done.stderr or done.stdout).strip().splitlines()[-_LAST_LINES:]) or "no reason"
    (folder / ".ready").touch()
    return None


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m embedding_validate.compare.peers")
    p.add_argument("bundle", metavar="BUNDLE", type=Path)
    p.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="the folder it was exported from")
    p.add_argument("output", metavar="DIR", type=Path, help="folder for the results")
    p.add_argument(
        "--environments", type=Path, default=Path("build/peers"), help="where they are made (%(default)s)"
    )
    p.add_argument("rest", nargs="*", metavar="-- OPTIONS", help="for compare-embedding")
    return p


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
