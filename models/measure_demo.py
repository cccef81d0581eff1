"""Climbs the ladder: measures exported bundles of the demo checkpoint and writes the table into its card.

Knows nothing of how figures are computed: see `train/ladder.py`. Needs the test split that `train_demo.py
--data-only` builds.
"""

import argparse
import sys
from pathlib import Path

from train.build import Plan
from train.decontaminate import Excluded
from train.ladder import Rung, climb, read_tasks, table
from train.losses import DIMS

_HERE = Path(__file__).parent
_BEGIN, _END = "<!-- ladder -->", "<!-- /ladder -->"
_SEARCHED = ("wordnet-gloss", "headings", "factbook")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="measure_demo", description="Measure every graph of bundles at every dim, as a Markdown table."
    )
    parser.add_argument("bundles", nargs="+", metavar="NAME=BUNDLE", help="name in the table, and bundle")
    parser.add_argument("--sts", type=Path, metavar="FILE", help="lines of score, sentence, sentence (tabs)")
    parser.add_argument("--work", type=Path, default=_HERE.parent / "build" / "train", help="where data lies")
    parser.add_argument("--card", type=Path, metavar="FILE", help=f"replace what stands after {_BEGIN} there")
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = _parser().parse_args(argv)
    plan = Plan(options.work, Excluded([]), 0, print)
    files = [plan.file(name, "test") for name in _SEARCHED]
    topics = plan.file("topics", "test")
    if missing := [str(f) for f in (*files, topics) if not f.exists()]:
        print(f"measure_demo: {missing[0]} is missing: run train_demo.py --data-only first", file=sys.stderr)
        return 1
    tasks = read_tasks(options.sts, files, topics)
    rungs: list[tuple[str, Rung]] = []
    for name, _, bundle in (b.partition("=") for b in options.bundles):
        rungs += [(name, rung) for rung in climb(Path(bundle), tasks, DIMS)]
    lines = table(rungs)
    print("\n".join(lines))
    if options.card is not None:
        _replace(options.card, lines)
    return 0


def _replace(card: Path, lines: list[str]) -> None:
    before, _, rest = card.read_text(encoding="utf-8").partition(_BEGIN)
    after = rest.partition(_END)[2]
    card.write_text("\n".join([before + _BEGIN, *lines, _END + after]), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
