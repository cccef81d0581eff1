"""Tokenizers side by side: start in a fresh process, memory, new and repeated queries, long and worst texts.

`python -m embedding_validate.benchmarks.tokenizers FOLDER TABLE [--texts FILE] [--runs 7]` prints one JSON
document; TABLE is made with `embedding_export.tokenizer.table.build_table`. The benchmark does not compare
ids: tests do.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from embedding_runtime.bundle import TokenizerInfo

Encode = Callable[[str, int | None], object]
QUERY = "task: search result | query: Which planet is known as the Red Planet, and why is its surface red?"
MAX_LENGTH = 2048
WORST = {
    "100,000 x a": "a" * 100_000,
    "1,000,000 x é": "é" * 1_000_000,
    "1,000,000 spaces": " " * 1_000_000,
    "300,000 x ab": "ab" * 300_000,
    "1,000,000 x <": "<" * 1_000_000,
    "10 MB of words": "planet Mars, " * 770_000,
}
KINDS = ("table", "tokenizers", "sentencepiece")


def open_encoder(kind: str, folder: Path, table: Path) -> Encode:
    """One of `KINDS` as a function of a text and a limit."""
    if kind == "sentencepiece":
        import sentencepiece

        model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        return lambda text, limit: model.encode(text, add_bos=True, add_eos=True)[:limit]
    path = table if kind == "table" else folder / "tokenizer.json"
    info = TokenizerInfo(path.name, 1 << 21, 2, 1, 0, False, ())
    if kind == "table":
        from embedding_runtime.tokenizers.table import TableTokenizer

        return TableTokenizer.open(path, info, verify=False).encode
    from embedding_runtime.tokenizers.library import LibraryTokenizer

    return LibraryTokenizer.open(path, info).encode


def start(kind: str, folder: Path, table: Path) -> dict[str, float]:
    """For a fresh process: milliseconds until open and until the first ids, and added resident MB."""
    import embedding_runtime.tokenizers.tokenizer  # noqa: F401  (what every runtime has imported anyway)

    _preload(kind)
    before, begin = _resident_mb(), time.perf_counter()
    encode = open_encoder(kind, folder, table)
    opened = time.perf_counter()
    encode(QUERY, None)
    end = time.perf_counter()
    return {
        "open_ms": 1000 * (opened - begin),
        "first_ids_ms": 1000 * (end - begin),
        "resident_mb": _resident_mb() - before,
    }


def speed(kind: str, folder: Path, table: Path, texts: list[str]) -> dict[str, float]:
    """Microseconds per new and repeated query, tokens per second of a long text (warm), worst texts in s."""
    encode = open_encoder(kind, folder, table)
    new = [_seconds(encode, text) for text in texts]
    again = [min(_seconds(encode, text) for _ in range(5)) for text in texts]
    document = " ".join(texts * (1 + 200_000 // sum(map(len, texts))))
    tokens = len(encode(document, None))  # type: ignore[arg-type]
    speeds = {
        "new_query_us": 1e6 * statistics.median(new),
        "repeated_query_us": 1e6 * statistics.median(again),
        "long_text_tokens_per_s": tokens / min(_seconds(encode, document) for _ in range(5)),
    }
    for name, text in WORST.items():
        speeds[f"{name}, whole, s"] = _seconds(encode, text)
        speeds[f"{name}, {MAX_LENGTH} ids, s"] = _seconds(encode, text, MAX_LENGTH)
    return speeds


def _preload(kind: str) -> None:
    """Import the code, so that its import is not measured."""
    if kind == "table":
        import embedding_runtime.tokenizers.table  # noqa: F401
    elif kind == "tokenizers":
        import tokenizers  # noqa: F401
    else:
        import sentencepiece  # noqa: F401


def _seconds(encode: Encode, text: str, limit: int | None = None) -> float:
    begin = time.perf_counter()
    encode(text, limit)
    return time.perf_counter() - begin


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _child(arguments: list[str], kind: str, what: str) -> dict[str, float]:
    command = [sys.executable, "-m", __spec__.name, *arguments, "--kind", kind, "--measure", what]
    figures: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return figures


def _queries(path: Path | None) -> list[str]:
    if path is None:
        return [f"{QUERY} {i}" for i in range(200)]
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if 80 <= len(line) <= 130][:400]


def main(argv: list[str] | None = None) -> int:
    """Measure every kind, each start in a process of its own, and write one JSON document to stdout."""
    arguments = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder", type=Path, help="with tokenizer.json, and tokenizer.model for sentencepiece"
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("--texts", type=Path, help="a query per line; those of 80 to 130 characters are used")
    parser.add_argument("--runs", type=int, default=7, help="fresh processes per tokenizer")
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=("start", "speed"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure == "start":
        result: object = start(options.kind, options.folder, options.table)
    elif options.measure == "speed":
        result = speed(options.kind, options.folder, options.table, _queries(options.texts))
    else:
        result = _report(arguments, options.folder, options.table, options.runs)
    json.dump(result, sys.stdout, indent=2, ensure_ascii=False)
    return 0


def _report(arguments: list[str], folder: Path, table: Path, runs: int) -> dict[str, object]:
    report: dict[str, object] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    }
    files = {
        "table": table,
        "tokenizers": folder / "tokenizer.json",
        "sentencepiece": folder / "tokenizer.model",
    }
    for kind in KINDS:
        if kind == "sentencepiece" and not (files[kind].is_file() and _installed("sentencepiece")):
            continue
        starts = [_child(arguments, kind, "start") for _ in range(runs)]
        medians = {name: statistics.median(s[name] for s in starts) for name in starts[0]}
        file_mb = files[kind].stat().st_size / 1e6
        report[kind] = {"file_mb": file_mb} | medians | _child(arguments, kind, "speed")
    return report


def _installed(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is not None


if __name__ == "__main__":
    raise SystemExit(main())
