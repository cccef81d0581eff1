"""README's performance table, from one result.

`python -m embedding_validate.compare.report.readme [COMPARE.json]` writes it.
With a result it first writes that to validate/performance.json, without the folders of the machine it was
measured on; then the table goes between README's marks. A test holds the two together.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import embedding_validate
from embedding_validate.compare.document import figures
from embedding_validate.compare.document import store as compare_store
from embedding_validate.compare.document.case import MEASURED
from embedding_validate.compare.report.grid import NONE, grid, number
from embedding_validate.compare.report.text import NOISY
from embedding_validate.files import replace_text

BEGIN, END = "<!-- performance: made from validate/performance.json -->\n", "<!-- /performance -->"
_ROOT = Path(embedding_validate.__file__).parents[2]
RESULT, README = _ROOT / "validate" / "performance.json", _ROOT / "README.md"
# The folders of an absolute path; its last name stays.
_FOLDERS = re.compile(r"(?<![\w.])/(?:[\w.+@-]+/)+")

Json = dict[str, Any]


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 when README is up to date."""
    p = argparse.ArgumentParser(prog="python -m embedding_validate.compare.report.readme")
    p.add_argument("result", metavar="COMPARE.json", nargs="?", type=Path, help="a new result to publish")
    options = p.parse_args(argv)
    if options.result:
        document = without_folders(compare_store.load(options.result))
        replace_text(RESULT, compare_store.dumps(document))
    text = README.read_text(encoding="utf-8")
    replace_text(README, with_table(text, table(compare_store.load(RESULT))))
    return 0


def with_table(readme: str, found: str) -> str:
    """README with the table between its marks."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"README has no {BEGIN.strip()} ... {END}: put the marks where the table belongs.")
    return f"{before}{begin}\n{found}\n{end}{after}"


def without_folders(value: Any) -> Any:
    """The same document with every absolute path cut to its last name."""
    if isinstance(value, str):
        return _FOLDERS.sub("", value)
    if isinstance(value, dict):
        return {name: without_folders(v) for name, v in value.items()}
    return [without_folders(v) for v in value] if isinstance(value, list) else value


def table(document: Json) -> str:
    """Times at all shapes, then size, loading, memory and accuracy; what was measured in a sentence."""
    run = document["runs"][0]
    return "\n\n".join([_sentence(run), _times(run), _systems(run)]) + "\n"


def _sentence(run: Json) -> str:
    machine, plan = run["machine"], run["plan"]
    features = ", ".join(name for name, there in machine["features"].items() if there)
    told = {(n, v) for o in (run, *run["openings"]) for n, v in o["versions"].items() if n in _ENGINES}
    engines = ", ".join(f"{name} {version}" for name, version in sorted(told))
    bundle = run["bundles"][0]
    batches = " (8x128: eight of 128)" if any("x" in shape for shape in plan["shapes"]) else ""
    return (
        f"A model of {bundle['parameters'] / 1e6:.0f} M parameters with random weights on {machine['cpu']} "
        f"({features}), {machine['cpus']} CPUs, {run['started'][:10]}; {engines}. Median milliseconds for "
        f"one text of so many tokens{batches}, each case in a fresh process and in turn with "
        f"{plan['reference']}; {NOISY} marks cases that something disturbed. Cosines are to {plan['base']}: "
        "random weights exaggerate what rounding costs, above all to 4 bits."
    )


_ENGINES = ("onnxruntime", "ai-edge-litert", "torch", "openvino", "llama-cpp-python", "transformers")


def _times(run: Json) -> str:
    plan = run["plan"]
    threads = " / ".join(map(str, plan["threads"]))
    rows = []
    for name in figures.systems(run):
        cells = []
        for shape in plan["shapes"]:
            found = [figures.case(run, name, t, shape) for t in plan["threads"]]
            cells.append(" / ".join(_milliseconds(case) for case in found))
        rows.append([name, *cells])
    return grid([f"ms, {threads} threads", *plan["shapes"]], rows)


def _milliseconds(case: Json | None) -> str:
    if case is None or case["status"] != MEASURED:
        return NONE if case is None else str(case["status"])
    return f"{number(case['median_ms'])}{NOISY if case['noise'] else ''}"


def _systems(run: Json) -> str:
    return grid(
        ["", "MB on disk", "load s, first", "load s, then", "own MB", "mapped MB", "least cosine"],
        [_system(run, name) for name in figures.systems(run)],
    )


def _system(run: Json, name: str) -> list[str]:
    opening = figures.opening(run, name, run["plan"]["threads"][0]) or {}
    memory, size, least = figures.memory(run, name), figures.graph_bytes(run, name), figures.cosine(run, name)
    wrong = figures.wrong(run, name)
    return [
        name,
        number(size / 1e6 if size else None),
        number(opening.get("first_s")),
        number(figures.warm_load(run, name)),
        *(number(m / 1024 if (m := memory.get(kind)) else None) for kind in ("anonymous_peak", "file_peak")),
        (NONE if least is None else f"{least:.4f}") + (" (wrong)" if wrong else ""),
    ]


if __name__ == "__main__":
    sys.exit(main())
