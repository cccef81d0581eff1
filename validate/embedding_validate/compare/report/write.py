"""`compare.md` and `compare.html` beside the `compare.json` that they show."""

from pathlib import Path

from embedding_validate.compare.document import store
from embedding_validate.compare.document.document import Document
from embedding_validate.compare.report import page, text
from embedding_validate.files import replace_text
from embedding_validate.report.template import ReportError


def write_reports(output: Path, document: Document) -> tuple[str, str, str]:
    """Write the document for people: text always, the page where its extra is installed.

    Returns:
        The text, and what to say of either file.

    Raises:
        OSError: the folder cannot be written to.
    """
    shown = text.markdown(document)
    replace_text(output / text.MARKDOWN, shown)
    wrote = f"wrote {output / store.JSON} and {output / text.MARKDOWN}"
    path = output / page.HTML
    try:
        return shown, wrote, f"wrote {replace_text(path, page.render(document))}"
    except ReportError as e:
        path.unlink(missing_ok=True)  # an older page would contradict compare.json
        return shown, wrote, f"no {path.name}: {e}"
