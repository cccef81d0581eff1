"""Makes `models/demo` from nothing: fetches and builds the data, trains, and writes the checkpoint.

Knows nothing of how: see `train/recipe.py`.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

from train.build import Plan, build
from train.decontaminate import Excluded, read_texts
from train.sources import SourceError

_HERE = Path(__file__).parent


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="train_demo", description="Train the demo checkpoint from nothing.")
    parser.add_argument("--out", type=Path, default=_HERE / "demo", help="checkpoint to write (models/demo)")
    parser.add_argument("--work", type=Path, default=_HERE.parent / "build" / "train", help="data and stages")
    parser.add_argument(
        "--exclude", type=Path, action="append", default=[], metavar="FILE", help="texts to keep out of it"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--bfloat16", action="store_true", help="products of the encoder's layers in bfloat16"
    )
    parser.add_argument("--data-only", action="store_true", help="build the data and stop")
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = _parser().parse_args(argv)
    excluded = Excluded(text for path in options.exclude for text in read_texts(path))
    plan = Plan(options.work, excluded, options.seed, lambda line: print(line, file=sys.stderr, flush=True))
    try:
        build(plan)
    except SourceError as error:
        print(f"train_demo: {error}", file=sys.stderr)
        return 1
    if not options.data_only:
        _train(plan, options)
    return 0


def _train(plan: Plan, options: argparse.Namespace) -> None:
    import torch
    from train.recipe import Recipe, Settings

    # Groups of texts run side by side, one thread each.
    torch.set_num_threads(1)
    chosen = {"seed": options.seed, "threads": options.threads, "bfloat16": options.bfloat16}
    settings = dataclasses.replace(Settings(), **chosen)
    Recipe(plan, settings).make(options.out)


if __name__ == "__main__":
    sys.exit(main())
