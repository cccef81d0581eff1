"""The command line of `embed-text`: names, defaults and help."""

import argparse
import sys
from pathlib import Path
from typing import Any

from embedding_runtime.embed_text.files.row_formats import FORMATS
from embedding_runtime.encoding.overflow import POLICIES
from embedding_runtime.engines.registry import ENGINES
from embedding_runtime.quantization import PRECISIONS


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    p = argparse.ArgumentParser(
        prog="embed-text",
        description="Turn texts into vectors with a bundle, one vector per row of the input.",
        epilog="embed-text serve BUNDLE answers programs over HTTP: embed-text serve --help.",
    )
    p.add_argument("bundle", metavar="BUNDLE", type=Path, help="a folder written by export-embedding")
    p.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help="the texts, gzipped or not; - or nothing reads standard input",
    )
    _add_input(p.add_argument_group("input"))
    _add_vectors(p.add_argument_group("vectors"))
    _add_output(p.add_argument_group("output"))
    return p


def _add_input(p: Any) -> None:
    p.add_argument("--input-format", choices=FORMATS, help="default: by the file's name and content")
    p.add_argument(
        "--delimiter", metavar="MARK", help="of CSV: one character, or tab (default: found from the header)"
    )
    p.add_argument("--text-field", metavar="NAME", help="field of the text (default: text)")
    p.add_argument("--title-field", metavar="NAME", help="field of the title, for the document prompt")
    p.add_argument("--id-field", metavar="NAME", help="field that is copied to the output")
    p.add_argument(
        "--on-error",
        choices=["stop", "skip", "null"],
        default="stop",
        help="a row that cannot be embedded ends the run, is left out, or gets no vector (default: stop)",
    )


def _add_vectors(p: Any) -> None:
    p.add_argument("--task", metavar="NAME", help="prompt by name or alias, e.g. query, document, STS")
    p.add_argument("--prompt", metavar="TEXT", help="prompt as text")
    p.add_argument(
        "--allow-special",
        action="store_true",
        help="<bos>, <eos>, <pad> ... in a text are control tokens (default: text)",
    )
    p.add_argument("--dim", type=int, metavar="N", help="components to keep of each vector")
    p.add_argument(
        "--format",
        choices=list(ENGINES),
        help="of the graph (default: one whose engine is installed)",
    )
    p.add_argument(
        "--precision", metavar="NAME", help="of the graph: fp32, int8 ... (default: the best one available)"
    )
    p.add_argument(
        "--vector-precision", choices=PRECISIONS, default="float32", help="of the vectors (default: float32)"
    )
    p.add_argument("--ranges", type=Path, metavar="FILE", help="ranges for int8 and uint8 vectors (.npy)")
    p.add_argument("--write-ranges", type=Path, metavar="FILE", help="write the ranges of these vectors")
    p.add_argument(
        "--overflow",
        choices=POLICIES,
        default="truncate",
        help="for texts that are too long (default: truncate)",
    )
    p.add_argument("--batch-size", type=int, default=32, metavar="N", help="texts per run (default: 32)")
    p.add_argument("--threads", type=int, metavar="N", help="for the engine (default: all it may use)")
    p.add_argument(
        "--verify", choices=["cached", "always"], default="cached", help="hash files once, or always"
    )
    p.add_argument("--allow-failed", action="store_true", help="use a graph that failed its comparison")


def _add_output(p: Any) -> None:
    p.add_argument(
        "--output", "-o", metavar="FILE", help=".npy, .jsonl or .parquet (default: JSONL on standard output)"
    )
    p.add_argument(
        "--into",
        metavar="FILE",
        help="add the vectors to such a file, creating it if missing; refuses a file of another space, dim, "
        "vector precision or prompt",
    )
    p.add_argument(
        "--resume",
        action="store_true",
        help="continue where an interrupted run of the same command stopped, if there is one",
    )
    p.add_argument("--json", action="store_true", help="print a report as one JSON document; needs --output")
    p.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        default=sys.stderr.isatty(),
        help="a line on standard error (default: if that is a terminal)",
    )
