"""The service's processes: one, or several on one socket that are restarted when they die.

Workers map the same files, so the weights are in memory only once. Each worker exits when it is told to, or
when the process that started it is gone.
"""

import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from embedding_runtime.console import DONE, FAILED, warnings_as_lines
from embedding_runtime.errors import EmbeddingError
from embedding_runtime.serve.settings import Settings

_logger = logging.getLogger(__name__)
_STOPPING = (signal.SIGTERM, signal.SIGINT)
# Connections that wait to be accepted; the system may allow fewer.
_BACKLOG = 2048
# For what comes after the last answer.
_GRACE_SECONDS = 5.0
_LOOK_SECONDS = 0.5
# Workers count in mapped files. On a full disk the first write to a page of one kills its process, so they
# are in memory where the system has a folder there.
_MEMORY = Path("/dev/shm")

Ready = Callable[[], None]


def listen(host: str, port: int, seconds: float) -> socket.socket:
    """A socket that accepts connections; data that a client does not take in `seconds` is dropped (Linux).

    Raises:
        OSError: no such address, or the port is taken.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * seconds))
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def serve(settings: Settings, listening: socket.socket, workers: int, ready: Ready) -> int:
    """Serve until a signal ends it, and return the exit status; `ready` is called once requests are answered.

    Raises:
        EmbeddingError: the bundle cannot be opened.
    """
    _allow_many_files()
    if workers == 1:
        _work(settings, listening, ready)
        return 0
    return _Workers(settings, listening, workers).run(ready)


class _Stop:
    """Counts the signals that ask for an end instead of obeying them."""

    def __init__(self) -> None:
        self.count = 0
        self._before = {number: signal.signal(number, self._heard) for number in _STOPPING}

    def _heard(self, *_: object) -> None:
        self.count += 1

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _work(settings: Settings, listening: socket.socket, ready: Ready) -> None:
    """Open the bundle and answer until a signal comes; then finish the requests under way."""
    from embedding_runtime.serve.app import create_app
    from embedding_runtime.serve.command.server import make_server
    from embedding_runtime.serve.service import Service

    with warnings_as_lines("embed-text"):
        service = Service(settings)
    app, grace = create_app(service, settings.token), int(settings.limits.seconds + 1)
    server = make_server(app, grace, lifespan="on", backlog=_BACKLOG)
    ready()
    with suppress(KeyboardInterrupt):  # the signal that ended it, passed on when all is answered
        server.run(sockets=[listening])


class _Workers:
    """Processes that share a socket."""

    def __init__(self, settings: Settings, listening: socket.socket, count: int) -> None:
        self._settings, self._listening, self._count = settings, listening, count
        self._spawn = multiprocessing.get_context("spawn")
        self._running: dict[BaseProcess, Event] = {}

    def run(self, ready: Ready) -> int:
        """Keep the workers running until a signal comes or one cannot start; return the exit status."""
        stop = _Stop()
        folder = _MEMORY if os.access(_MEMORY, os.W_OK) else None
        with tempfile.TemporaryDirectory(prefix="embed-text-", dir=folder) as counts:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = counts
            try:
                return self._run(stop, ready)
            finally:
                self._end(stop)
                stop.restore()

    def _run(self, stop: _Stop, ready: Ready) -> int:
        self._start()  # alone: it prepares what the others only map
        announced = False
        while not stop.count:
            wait([process.sentinel for process in self._running], _LOOK_SECONDS)
            for process, started in list(self._running.items()):
                if process.is_alive() or stop.count:
                    continue
                del self._running[process]
                if not started.is_set():
                    return process.exitcode or FAILED
                _logger.warning("worker %s ended (%s); starting another", process.pid, process.exitcode)
                self._start()
            up = all(started.is_set() for started in self._running.values())
            if up and len(self._running) < self._count:
                self._start()
            elif up and not announced:
                announced = True
                ready()
        return 0

    def _start(self) -> None:
        started = self._spawn.Event()
        process = self._spawn.Process(target=_worker, args=(self._settings, self._listening, started))
        process.start()
        self._running[process] = started

    def _end(self, stop: _Stop) -> None:
        """Have the workers finish the requests under way; a second signal ends them at once."""
        for process in self._running:
            process.terminate()
        until = time.monotonic() + self._settings.limits.seconds + _GRACE_SECONDS
        for process in self._running:
            while process.is_alive() and stop.count < 2 and time.monotonic() < until:
                process.join(_LOOK_SECONDS)
        for process in self._running:
            process.kill()
            process.join()


def _worker(settings: Settings, listening: socket.socket, started: Any) -> None:
    """The main function of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; their parent tells them
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _work(settings, listening, started.set)
    except EmbeddingError as e:
        _logger.error("embed-text: error: %s", e)
        sys.exit(e.exit_status)


def _leave(*_: object) -> None:
    sys.exit(DONE)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _allow_many_files() -> None:
    """Allow as many connections as the system lets this user have."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
