"""The templates of the pages: what renders them, and the error where nothing can."""

from typing import TYPE_CHECKING

from embedding_runtime.errors import EmbeddingError

if TYPE_CHECKING:
    from jinja2 import Environment


class ReportError(EmbeddingError):
    """The page cannot be rendered here."""


def environment() -> "Environment":
    """A jinja2 environment that escapes HTML and refuses names that nobody gave.

    Raises:
        ReportError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as e:
        raise ReportError("jinja2 is not installed (pip install 'embedding-edge[validate]')") from e
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
