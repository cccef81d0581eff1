"""`cross.html`: one self-contained page, a pure function of `cross.json`. Needs jinja2."""

from importlib import resources
from typing import Any

from embedding_validate.report.template import environment

HTML = "cross.html"


def render(data: dict[str, Any]) -> str:
    """The page for a document of `cross.json`.

    Raises:
        ReportError: jinja2 is not installed.
    """
    templates = environment()
    template = resources.files(__package__).joinpath("cross.html").read_text(encoding="utf-8")
    worst = min(data["rows"], key=lambda row: row["overlap"], default=None)
    page: str = templates.from_string(template).render(data=data, worst=worst)
    return page
