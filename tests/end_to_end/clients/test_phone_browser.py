"""`compare-phone` to its end in headless Chromium, as wide as a phone: figures, wrong engines, ends."""

import base64
import json
import shutil
from pathlib import Path

import driven
import numpy as np
import pytest
from phone_page import needs_engines, serving

from embedding_runtime.bundle import load_manifest
from embedding_validate.compare.document import store
from embedding_validate.compare.document.browser import BrowserRun

pytestmark = pytest.mark.phone

# What DevTools' throttle does to a page's main thread it does not do to its workers, so no test uses it as a
# stand-in for a phone: the name says what was measured.
NAME = "headless Chromium, no phone"
READY = "document.querySelector('#start') && !document.querySelector('#start').disabled"
QUICK = ("--lengths", "8,16,64", "--threads", "1,2", "--seconds", "0.05")


@pytest.fixture(autouse=True)
def _engines() -> None:
    needs_engines()


def measure(page: driven.Page, link: str, seconds: float = 120) -> str:
    """Open a link, press the button, and wait for the end; all that the page says then."""
    page.open(link)
    page.until(READY, 30)
    page.evaluate(
        f"document.querySelector('#name').value = {NAME!r}; document.querySelector('#start').click()"
    )
    assert page.until("document.body.dataset.state", seconds) == "done", page.evaluate(
        "document.body.innerText"
    )
    said: str = page.evaluate("document.body.innerText")
    return said


def run_of(folder: Path) -> BrowserRun:
    (run,) = [r for r in store.load(folder / "compare.json").runs if isinstance(r, BrowserRun)]
    return run


def test_every_engine_to_the_end(litert_bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with serving(litert_bundle, output, *QUICK) as served, driven.page(tmp_path) as page:
        said = measure(page, served.link)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.evaluate("document.querySelectorAll('svg polyline').length") >= 3
        cut = """[...document.querySelectorAll('svg text')].filter(word => {
            const at = word.getBoundingClientRect(), edge = word.ownerSVGElement.getBoundingClientRect();
            return at.left < edge.left - 1 || at.right > edge.right + 1; }).length"""
        assert page.evaluate(cut) == 0
        assert "token=" not in page.evaluate("location.href")
        assert served.stop() == 0
    run = run_of(output)
    assert (run.label, run.complete, run.machine.isolated) == (NAME, True, True)
    cases = {case.name: case for case in run.cases}
    for name in (
        "onnx/int8, wasm, 1 thread",
        "onnx/int8, wasm, 2 threads",
        "litert/int8, litert-wasm, 1 thread",
    ):
        case = cases[name]
        assert case.status == "measured", case
        assert case.max_abs_error is not None and case.max_abs_error <= case.tolerance
        assert [t.tokens for t in case.times] == [8, 16, 64]
        assert all(t.status == "measured" and len(t.samples_ms) >= 3 and t.median_ms for t in case.times)
        assert case.load_s and case.first_ms and name in said
    assert (cases["onnx/int8, wasm, 1 thread"].heap_bytes or 0) > 1 << 20
    assert cases["onnx/int8, webgpu"].status in ("left out", "wrong", "measured", "not supported", "failed")
    page_text = (output / "compare.html").read_text(encoding="utf-8")
    assert NAME in page_text and "onnx/int8, wasm, 2 threads" in page_text


def test_wrong_vectors_are_named_and_not_timed(litert_bundle: Path, tmp_path: Path) -> None:
    """As if the engine gave others: the bundle says that the vectors are something else."""
    bundle = Path(shutil.copytree(litert_bundle, tmp_path / "bundle"))
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    dim = load_manifest(bundle).embedding_dim
    other = np.full(dim, dim**-0.5, "<f4").tobytes()
    for graph in manifest["graphs"]:
        graph["golden"][0]["vector_base64"] = base64.b64encode(other).decode("ascii")
    (bundle / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    output = tmp_path / "out"
    options = ("--graphs", "onnx/int8", "--lengths", "8", "--threads", "1")
    with serving(bundle, output, *options) as served, driven.page(tmp_path) as page:
        assert "not the bundle's vectors" in measure(page, served.link)
        assert served.stop() == 1
    case = run_of(output).cases[0]
    assert case.status == "wrong" and case.times == () and case.load_s is None
    assert case.cosine is not None and case.cosine < 0.9


def test_a_graph_that_no_engine_opens_ends_with_its_reason(litert_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(litert_bundle, tmp_path / "bundle"))
    path = bundle / "onnx" / "model_int8.onnx"
    path.write_bytes(path.read_bytes().replace(b"MatMulIntegerToFloat", b"MatMulIntegerToFloot"))
    output = tmp_path / "out"
    options = ("--graphs", "onnx/int8", "--lengths", "8", "--threads", "1")
    with serving(bundle, output, *options) as served, driven.page(tmp_path) as page:
        measure(page, served.link)
        assert served.stop() == 1
    case = run_of(output).cases[0]
    assert case.status == "not supported" and "MatMulIntegerToFloot" in (case.reason or "")


def test_an_engine_without_an_answer_is_ended(litert_bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    options = ("--graphs", "onnx/int8", "--lengths", "8", "--threads", "1", "--limit", "0.001")
    with serving(litert_bundle, output, *options) as served, driven.page(tmp_path) as page:
        measure(page, served.link)
        assert served.stop() == 1
    assert run_of(output).cases[0].status == "no answer"


def test_https_with_its_own_certificate(litert_bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    options = ("--graphs", "onnx/int8", "--lengths", "8", "--threads", "2", "--https")
    with (
        serving(litert_bundle, output, *options) as served,
        driven.page(tmp_path, "--ignore-certificate-errors") as page,
    ):
        assert served.link.startswith("https://")
        measure(page, served.link)
    run = run_of(output)
    assert run.machine.isolated and run.cases[0].status == "measured"
