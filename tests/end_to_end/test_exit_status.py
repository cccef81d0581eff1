"""The same fault ends every command with the same status."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from embedding_export import cli as export
from embedding_export.errors import AuditError, CheckpointError, ExportError, ParityError
from embedding_runtime.console import run_command
from embedding_runtime.embed_text import cli as embed_text
from embedding_runtime.errors import BundleError, EngineError, InputError
from embedding_validate import cli as validate
from embedding_validate.compare import cli as compare
from embedding_validate.ladder import cli as ladder

Main = Callable[[list[str]], int]


def commands(bundle: Path, checkpoint: Path, out: Path) -> dict[str, tuple[Main, list[str]]]:
    """Every command that reads a bundle or a checkpoint, with arguments that are sound but for these."""
    reference = ["--reference", str(checkpoint)]
    return {
        "export-embedding": (export.main, [str(checkpoint), str(out / "new")]),
        "embed-text": (embed_text.main, [str(bundle), str(out / "texts.txt"), "-o", str(out / "o.npy")]),
        "validate-embedding": (validate.main, [str(bundle), *reference]),
        "compare-embedding": (compare.main, [str(bundle), *reference, "--output", str(out / "compare")]),
        "embedding-ladder": (ladder.main, [str(bundle), *reference, "--output", str(out / "ladder")]),
    }


@pytest.mark.parametrize(
    "name", ["embed-text", "validate-embedding", "compare-embedding", "embedding-ladder"]
)
def test_a_bundle_that_is_none(
    name: str, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts.txt").write_text("red\n")
    main, arguments = commands(tmp_path / "nowhere", tiny_checkpoint, tmp_path)[name]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith(f"{name}: error: ")
    assert "nowhere" in said


@pytest.mark.parametrize("name", ["export-embedding", "validate-embedding", "embedding-ladder"])
def test_a_checkpoint_that_is_none(
    name: str, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main, arguments = commands(tiny_bundle, tmp_path / "nowhere", tmp_path)[name]
    assert main(arguments) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"{name}: error: ")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("a"), 2),
        (BundleError("a"), 2),
        (CheckpointError("a"), 2),
        (EngineError("a"), 1),
        (ExportError("a"), 1),
        (AuditError("a"), 1),
        (ParityError("a"), 1),
        (OSError(28, "No space left on device", "out.npy"), 1),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, BaseException) else str(x),
)
def test_the_status_of_an_error(
    error: BaseException, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise error

    before = signal.getsignal(signal.SIGTERM)
    assert run_command("a-command", fail) == status
    assert signal.getsignal(signal.SIGTERM) is before
    line = capsys.readouterr().err
    assert line.startswith("a-command: ") and line.count("\n") == 1
    assert ("out.npy" in line) == isinstance(error, OSError)


def test_an_error_that_nobody_foresaw_keeps_its_traceback() -> None:
    def fail() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command("a-command", fail)


WAITING = """
import sys, time
from embedding_runtime.console import run_command
def wait():
    print("ready", flush=True)
    time.sleep(60)
    return 0
sys.exit(run_command("a-command", wait))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_ends_a_command_with_130(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    os.kill(process.pid, number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said == "a-command: interrupted\n"
