"""`validate/FIELD_REPORTS.md` is a table of one row per line, and the tests that it names are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "validate" / "FIELD_REPORTS.md").read_text(encoding="utf-8")


def test_every_row_has_four_cells_and_names_tests_that_are_there() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]
    assert len(rows) > 20
    for line in rows[1:]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert len(cells) == 4 and all(cells), line
        named = re.findall(r"`(tests/[\w/]+\.py)", cells[3])
        assert named and all((ROOT / name).is_file() for name in named), line
