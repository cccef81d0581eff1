"""Pages in headless Chromium, for tests: what a reader sees, and how wide it is. Skips without it."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
_QUIET = ("--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-sync")


def needed(page: Path) -> Path:
    """The page; skips the test where no browser is installed."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (Debian: apt install chromium)")
    return page


def dom(page: Path, folder: Path) -> str:
    """The page as the browser built it; `folder` takes the browser's own files."""
    return _run(page, folder, "--dump-dom")


def pdf(page: Path, folder: Path) -> str:
    """The words of the printed page; skips where poppler's pdftotext is not installed."""
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext is not installed (Debian: apt install poppler-utils)")
    printed = folder / "printed.pdf"
    _run(page, folder, f"--print-to-pdf={printed}")
    done = subprocess.run(["pdftotext", "-layout", printed, "-"], capture_output=True, text=True, check=True)
    return " ".join(done.stdout.split())


def text(page: str) -> str:
    """What a reader sees: no tags, one space between words."""
    body = re.sub(r"<style>.*?</style>", " ", page, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def inner_width(page: Path, width: int, folder: Path) -> int:
    """How wide a page is that is given `width` pixels: more where something sticks out."""
    return int(_framed(page, width, folder, "this.contentDocument.documentElement.scrollWidth"))


def cut_off(page: Path, width: int, folder: Path) -> list[str]:
    """Words in plots that reach beyond their plot's edges, on a page that is given `width` pixels."""
    script = (
        "JSON.stringify([...this.contentDocument.querySelectorAll('svg')].flatMap(plot => {"
        " const edge = plot.getBoundingClientRect();"
        " return [...plot.querySelectorAll('text')].filter(word => { const at = word.getBoundingClientRect();"
        " return at.left < edge.left - 1 || at.right > edge.right + 1; }).map(word => word.textContent); }))"
    )
    found: list[str] = json.loads(_framed(page, width, folder, script))
    return found


def _framed(page: Path, width: int, folder: Path, script: str) -> str:
    """What a script says of a page in a frame, as a window is never narrower than 500 pixels."""
    framed = folder / "framed.html"
    whole = html.escape(page.read_text(encoding="utf-8"))
    told = html.escape(f"document.title = 'inside ' + {script}")
    framed.write_text(
        f'<iframe width="{width}" height="900" style="border: 0" srcdoc="{whole}" onload="{told}"></iframe>',
        encoding="utf-8",
    )
    found = re.search(r"<title>inside (.*?)</title>", dom(framed, folder))
    assert found
    return html.unescape(found[1])


def _run(page: Path, folder: Path, task: str) -> str:
    assert CHROMIUM is not None
    own = [
        "--headless",
        "--no-sandbox",
        *_QUIET,
        "--hide-scrollbars",
        f"--user-data-dir={folder / 'profile'}",
    ]
    command = [CHROMIUM, *own, task, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
