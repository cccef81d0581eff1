"""`embed-text serve`: serves a bundle over OpenAI's embeddings protocol."""

import argparse
import os
import socket
import sys
from importlib.util import find_spec
from pathlib import Path

from embedding_runtime.bundle import MANIFEST
from embedding_runtime.console import run_command
from embedding_runtime.encoding.options import check_whole
from embedding_runtime.errors import EngineError, InputError
from embedding_runtime.machine.addresses import is_loopback
from embedding_runtime.machine.threads import resolve_threads
from embedding_runtime.opening.open_bundle import Choice
from embedding_runtime.serve.command.arguments import TOKEN_VARIABLE, parser
from embedding_runtime.serve.command.processes import listen, serve
from embedding_runtime.serve.settings import Limits, Settings

WORD = "serve"
_MOST_WORKERS = 256
_NEEDED = ("starlette", "uvicorn", "prometheus_client")


def is_meant(argv: list[str]) -> bool:
    """Whether a command line of `embed-text` asks for the service.

    It does if its first word is `serve`, unless the current folder has a bundle of that name and no other
    word is a folder: `embed-text serve texts.txt` then embeds the texts with that bundle.
    """
    if argv[:1] != [WORD]:
        return False
    return not Path(WORD, MANIFEST).is_file() or any(Path(each).is_dir() for each in argv[1:])


def main(argv: list[str]) -> int:
    """Run the command, without its first word; the exit status is 0 if a signal ended it."""
    arguments = parser().parse_args(argv)
    return run_command("embed-text", lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    _check_installed()
    token = _token(arguments.token_file)
    _check_reach(arguments.host, token)
    settings = _settings(arguments, token)
    with _listening(arguments, settings.limits.seconds) as listening:
        host, port = listening.getsockname()[:2]
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        return serve(settings, listening, arguments.workers, lambda: _say(f"serving {address}/v1"))


def _listening(arguments: argparse.Namespace, seconds: float) -> socket.socket:
    try:
        return listen(arguments.host, arguments.port, seconds)
    except OSError as e:
        raise InputError(
            f"{arguments.host}:{arguments.port} cannot be listened on ({e.strerror or e}). Choose another "
            "--port."
        ) from e


def _settings(arguments: argparse.Namespace, token: str | None) -> Settings:
    check_whole("--port", arguments.port, 0, 65535)
    check_whole("--workers", arguments.workers, 1, _MOST_WORKERS)
    check_whole("--batch-size", arguments.batch_size)
    for name in ("body", "texts", "tokens", "queue"):
        check_whole(f"--max-{name}", getattr(arguments, f"max_{name}"))
    if not 0 < arguments.timeout <= 86_400:
        raise InputError(f"--timeout is {arguments.timeout:g}; expected seconds, at most a day.")
    limits = Limits(
        arguments.max_body, arguments.max_texts, arguments.max_tokens, arguments.max_queue, arguments.timeout
    )
    threads = resolve_threads(arguments.threads)
    if arguments.threads is None:
        threads = max(1, threads // arguments.workers)
    choice = Choice(arguments.format, arguments.precision, threads)
    return Settings(arguments.bundle, choice, arguments.overflow, arguments.batch_size, limits, token)


def _check_installed() -> None:
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise EngineError(
            f"The service needs {', '.join(missing)}. Install it with: pip install 'embedding-edge[serve]'"
        )


def _token(path: Path | None) -> str | None:
    """The token that clients must send. It is never an argument, which every user of the machine could read.

    Raises:
        InputError: no such file, an empty token, or one that no header can carry.
    """
    where = TOKEN_VARIABLE if path is None else str(path)
    try:
        token = os.environ.get(TOKEN_VARIABLE) if path is None else path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"--token-file {path} cannot be read ({e}).") from e
    if token is None:
        return None
    if not token or not all("!" <= c <= "~" for c in token):
        raise InputError(f"{where} holds no token: expected printable ASCII without spaces.")
    return token


def _check_reach(host: str, token: str | None) -> None:
    """Refuse an address that other machines can reach, unless there is a token."""
    try:
        alone = is_loopback(host)
    except OSError as e:
        raise InputError(f"--host {host} is not an address of this machine ({e}).") from e
    if token is None and not alone:
        raise InputError(
            f"--host {host} can be reached from other machines. Set a token in {TOKEN_VARIABLE} or with "
            "--token-file, or leave --host out."
        )


def _say(line: str) -> None:
    print(f"embed-text: {line}", file=sys.stderr, flush=True)
