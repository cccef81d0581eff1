"""The command line of `embed-text serve`: names, defaults and help."""

import argparse
from pathlib import Path
from typing import Any

from embedding_runtime.encoding.overflow import POLICIES
from embedding_runtime.engines.registry import ENGINES
from embedding_runtime.serve.settings import Limits

TOKEN_VARIABLE = "EMBED_TEXT_TOKEN"


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    p = argparse.ArgumentParser(
        prog="embed-text serve",
        description="Answer OpenAI's embeddings requests (POST /v1/embeddings) with a bundle's vectors.",
        epilog=f"Clients must send the token that {TOKEN_VARIABLE} or --token-file holds, if any. Ends on "
        "SIGTERM or Ctrl-C once running requests are answered. Exit status: 0 ended by a signal, 1 the "
        "engine failed, 2 bundle or usage, 130 interrupted before it served.",
    )
    p.add_argument("bundle", metavar="BUNDLE", type=Path, help="a folder written by export-embedding")
    _add_place(p.add_argument_group("where"))
    _add_model(p.add_argument_group("vectors"))
    _add_limits(p.add_argument_group("limits of each worker"))
    return p


def _add_place(p: Any) -> None:
    p.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; one that other machines can reach needs a token (default: 127.0.0.1)",
    )
    p.add_argument("--port", type=int, default=8080, help="0 takes a free one (default: 8080)")
    p.add_argument("--token-file", type=Path, metavar="FILE", help="file that holds the token")
    p.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: 1)")


def _add_model(p: Any) -> None:
    p.add_argument(
        "--format", choices=list(ENGINES), help="of the graph (default: one whose engine is installed)"
    )
    p.add_argument(
        "--precision", metavar="NAME", help="of the graph: fp32, int8 ... (default: the best one available)"
    )
    p.add_argument(
        "--overflow",
        choices=POLICIES,
        default="error",
        help="for texts that are too long (default: error, as OpenAI's)",
    )
    p.add_argument("--batch-size", type=int, default=32, metavar="N", help="texts per run (default: 32)")
    p.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="for the engine of each worker (default: all it may use, shared by the workers)",
    )


def _add_limits(p: Any) -> None:
    limits = Limits()
    p.add_argument(
        "--max-body", type=int, default=limits.body, metavar="BYTES", help="of a request (default: 8 MiB)"
    )
    p.add_argument(
        "--max-texts",
        type=int,
        default=limits.texts,
        metavar="N",
        help=f"in a request (default: {limits.texts})",
    )
    p.add_argument(
        "--max-tokens",
        type=int,
        default=limits.tokens,
        metavar="N",
        help=f"in a request (default: {limits.tokens})",
    )
    p.add_argument(
        "--max-queue",
        type=int,
        default=limits.queue,
        metavar="N",
        help=f"texts under way; beyond them 503 (default: {limits.queue})",
    )
    p.add_argument(
        "--timeout",
        type=float,
        default=limits.seconds,
        metavar="SECONDS",
        help=f"from a request to the end of its answer (default: {limits.seconds:g})",
    )
