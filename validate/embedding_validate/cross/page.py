"""`cross.html`: one self-contained page, a pure function of `cross.json`. Needs jinja2."""

from importlib import resources
from typing import Any

from embedding_validate.report.page import ReportError

HTML = "cross.html"


def render(data: dict[str, Any]) -> str:
    """The page for a document of `cross.json`.

    Raises:
        ReportError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as e:
        raise ReportError("jinja2 is not installed (pip install 'embedding-edge[validate]')") from e
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = resources.files(__package__).joinpath("cross.html").read_text(encoding="utf-8")
    worst = min(data["rows"], key=lambda row: row["overlap"], default=None)
    page: str = environment.from_string(template).render(data=data, worst=worst)
    return page
