"""`compare-phone`: serves a page that runs a bundle's graphs in the browser of the phone that opens it.

Arguments and the order of steps; `plan` says what is measured, `app` answers, `results` writes.
"""

import argparse
import socket
import sys
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from embedding_runtime.bundle import load_manifest
from embedding_runtime.console import FAILED, INTERRUPTED, run_command
from embedding_runtime.encoding.options import check_whole
from embedding_runtime.errors import EngineError, InputError
from embedding_validate.compare.document.shapes import counts, seconds
from embedding_validate.compare.phone import address, engines
from embedding_validate.compare.phone.plan import Plan, choose
from embedding_validate.compare.phone.results import Results, status

LENGTHS, THREADS = "16,64,256,512", "1,2,4"
_NEEDED = ("starlette", "uvicorn")
_GRACE_SECONDS = 2


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 all that came is right, 1 some is not, 2 usage or input, 130 nothing came."""
    options = _parser().parse_args(sys.argv[1:] if argv is None else argv)
    return run_command("compare-phone", lambda: _fetch() if options.fetch else _measure(options))


def _fetch() -> int:
    packages = engines.fetch()
    _say(f"fetched {', '.join(f'{n} {v}' for n, v in engines.versions().items())} into {packages.parent}")
    return 0


def _measure(options: argparse.Namespace) -> int:
    if options.bundle is None or options.output is None:
        raise InputError("Give a BUNDLE and --output DIR, the folder for the results (or --fetch alone).")
    check_whole("--port", options.port, 0, 65535)
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise EngineError(f"The page needs {', '.join(missing)}: pip install 'embedding-edge[phone]'.")
    packages, plan = engines.require(), _plan(options)
    results = Results(plan, options.output, _say)
    try:
        listening = socket.create_server((options.host, options.port))
    except OSError as e:
        raise InputError(
            f"{options.host}:{options.port} cannot be listened on ({e.strerror or e}). Choose another --port."
        ) from e
    with listening, tempfile.TemporaryDirectory(prefix="compare-phone-") as secret:
        _serve(options, plan, packages, results, listening, Path(secret))
    if not results.runs:
        _say("nothing was measured")
        return INTERRUPTED
    return FAILED if status(results.runs) else 0


def _plan(options: argparse.Namespace) -> Plan:
    manifest = load_manifest(options.bundle)
    keys = None if options.graphs is None else options.graphs.split(",")
    graphs = choose(options.bundle, manifest, keys)
    longest = max(graph.max_length for graph in graphs)
    lengths = tuple(sorted({n for n in counts(options.lengths, "--lengths") if n <= longest}))
    if not lengths:
        raise InputError(f"--lengths has none that the graphs read: expected at most {longest} tokens.")
    threads = tuple(counts(options.threads, "--threads"))
    name = options.bundle.resolve().name
    return Plan(name, manifest, graphs, lengths, threads, options.seconds, options.limit)


def _serve(
    options: argparse.Namespace,
    plan: Plan,
    packages: Path,
    results: Results,
    listening: socket.socket,
    secret: Path,
) -> None:
    """Until a signal ends it."""
    from embedding_runtime.serve.command.server import make_server
    from embedding_validate.compare.phone.app import Pages

    host, port = address.shown_host(options.host), listening.getsockname()[1]
    door = address.Door(
        f"{'https' if options.https else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
    )
    security: dict[str, Any] = {}
    if options.https:
        security["ssl_certfile"] = security["ssl_keyfile"] = address.certificate(host, secret)
    pages = Pages(plan, packages, results, door, lambda: _invite(door, "for another browser"))
    server = make_server(pages.app(), _GRACE_SECONDS, lifespan="off", **security)
    _invite(door, "for one browser; Ctrl-C ends")
    _say(_advice(options, port))
    with suppress(KeyboardInterrupt):  # the signal that ended it, passed on when all is answered
        server.run(sockets=[listening])


def _invite(door: address.Door, to_whom: str) -> None:
    link = door.link()
    if sys.stderr.isatty():
        sys.stderr.write(address.qr_code(link))
    _say(f"open {link} ({to_whom})")


def _advice(options: argparse.Namespace, port: int) -> str:
    if address.is_loopback(options.host):
        return (
            f"A phone on a cable reaches it after: adb reverse tcp:{port} tcp:{port}; one in the same "
            "network with --host 0.0.0.0 --https."
        )
    if options.https:
        return "The browser will warn that it does not know who signed the certificate: this computer did."
    return "Browsers give threads and WebGPU to https alone: without --https one thread is measured."


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="compare-phone",
        description="Serve a page that runs a bundle's graphs in the browser of the phone that opens it: "
        "compares its vectors with the bundle's own, then measures loading and latency. What it finds goes "
        "into compare.json, compare.md and compare.html, beside what compare-embedding wrote there.",
        epilog="Exit status, when Ctrl-C ends it: 0 done, 1 an engine failed or gave wrong vectors, 2 usage "
        "or input, 130 nothing was measured.",
    )
    p.add_argument("bundle", metavar="BUNDLE", nargs="?", type=Path, help="a folder of export-embedding")
    p.add_argument("--output", metavar="DIR", type=Path, help="folder for the results")
    p.add_argument("--fetch", action="store_true", help="fetch the browser's engines from npm, once")
    what = p.add_argument_group("what is measured")
    what.add_argument(
        "--graphs", metavar="KEYS", help="comma-separated, e.g. onnx/int8 (default: the best of each format)"
    )
    what.add_argument(
        "--threads", metavar="LIST", default=THREADS, help="of wasm, comma-separated (default: %(default)s)"
    )
    what.add_argument(
        "--lengths", metavar="LIST", default=LENGTHS, help="tokens, comma-separated (default: %(default)s)"
    )
    what.add_argument(
        "--seconds",
        metavar="S",
        type=seconds,
        default=0.8,
        help="for each length (default: %(default)s)",
    )
    what.add_argument(
        "--limit",
        metavar="S",
        type=seconds,
        default=300,
        help="seconds after which an engine that has not answered is ended (default: %(default)s)",
    )
    where = p.add_argument_group("where")
    where.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine alone)"
    )
    where.add_argument("--port", type=int, default=8081, help="0 takes a free one (default: %(default)s)")
    where.add_argument(
        "--https", action="store_true", help="with a certificate made for this run, of which browsers warn"
    )
    return p


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
