"""The real model's ladder as the repository shows it: validate/ladder.json, LADDER.md, README's table.

`python -m embedding_validate.ladder.publish [LADDER.json]` writes them, from a new result if one is given. A
test keeps the three consistent.
"""

import argparse
import sys
from pathlib import Path

import embedding_validate
from embedding_validate.files import replace_text
from embedding_validate.ladder import document, page

BEGIN, END = "<!-- performance: made from validate/ladder.json -->\n", "<!-- /performance -->"
_ROOT = Path(embedding_validate.__file__).parents[2]
RESULT, PAGE, README = (
    _ROOT / "validate" / "ladder.json",
    _ROOT / "validate" / "LADDER.md",
    _ROOT / "README.md",
)


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 when everything is up to date."""
    p = argparse.ArgumentParser(prog="python -m embedding_validate.ladder.publish")
    p.add_argument("result", metavar="LADDER.json", nargs="?", type=Path, help="a new result to publish")
    options = p.parse_args(argv)
    ladder = document.load(options.result or RESULT)
    ladder.write(RESULT)
    replace_text(PAGE, page.page(ladder))
    replace_text(README, with_table(README.read_text(encoding="utf-8"), page.readme(ladder)))
    return 0


def with_table(readme: str, table: str) -> str:
    """README with the table between its markers."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"README has no {BEGIN.strip()} ... {END}: put the marks where the table belongs.")
    return f"{before}{begin}\n{table}\n{end}{after}"


if __name__ == "__main__":
    sys.exit(main())
