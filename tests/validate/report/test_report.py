"""`parity.html`: everything the JSON's summary says is on the page, in text, in a browser, on a phone."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import browser
import planted
import pytest

from embedding_export.bundle import graphs
from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime.errors import InputError
from embedding_validate.diagnosis import diagnosis
from embedding_validate.parity import parity
from embedding_validate.probes import probes, texts
from embedding_validate.reference import file as reference_file
from embedding_validate.reference.reference import Reference
from embedding_validate.report import card, plots
from embedding_validate.report import page as report
from embedding_validate.report.plots import Axis, Point
from embedding_validate.testing import assert_parity

OWN = [
    texts.Text("script", "User", "<script>alert('x')</script> & \0 \u202e"),
    texts.Text("wind", "Latin", "wind"),
    texts.Text("long", "Latin", "How deep is the well? " * 40),
]


@pytest.fixture(scope="module")
def bundles(
    tiny_bundle: Path, reference: Reference, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Two bundles with `parity.json` and `parity.html`: one sound, one whose query prompt was dropped."""
    answers = reference.answer(probes.of_texts(OWN, reference.prompts))
    found = {}
    for name in ("sound", "wrong"):
        found[name] = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("report") / name))
        if name == "wrong":
            path = found[name] / "manifest.json"
            data = json.loads(path.read_text(encoding="utf-8"))
            data["prompts"]["query"] = ""
            path.write_text(json.dumps(data), encoding="utf-8")
        result = parity.check(found[name], answers)
        diagnosis.diagnose(found[name], result, reference, answers).write(found[name])
        report.write(found[name])
    return found


def _json(bundle: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((bundle / "parity.json").read_text(encoding="utf-8"))
    return data


def _expected(data: dict[str, Any]) -> list[str]:
    """Every figure of the summary as the page writes it."""
    found = [data["reference"]["name"], data["machine"]["cpu"], data["versions"]["onnxruntime"]]
    for key, g in data["graphs"].items():
        found += [f"{key}: {g['status']}", f"{g['checks']} on {g['texts']} texts, {g['failed']} failed"]
        found += [f"{g['cosine'][n]:.7f}" for n in ("minimum", "p1", "mean")]
        found += [f"{g['max_abs_error'][n]:.1e}" for n in ("maximum", "mean", "ci95")]
        found += [f"{g['norm_error'][n]:.1e}" for n in ("maximum", "mean", "ci95")]
        found.append(f"in {g['ids_compared'] - g['ids_differ']} of {g['ids_compared']} texts")
        found.append(f"{g['not_finite']} vectors with NaN")
        for n in ("top_k_overlap", "spearman", "kendall"):
            found.append(f"{g['ranking'][n]:.7f} ± {g['ranking'][n + '_ci95']:.1e}")
        found.append(f"for {g['ranking']['queries']} queries over {g['ranking']['documents']} documents")
        found += [f"{g['scores']['largest']:.1e}", g["variant_id"]]
        found += [f"{v:.1e}" for v in g["invariance"].values() if v is not None]
        found += [f"{name.replace('_', ' ')} {value}" for name, value in g["thresholds"].items()]
        found += [f["name"] for f in g["findings"]] + [f["evidence"] for f in g["findings"]]
        found += list(g["mismatches"])
        found += [f"{n} at {cut}" for cut, n in g["scores"]["crossings"].items()]
        for label, s in ((label, s) for groups in g["groups"].values() for label, s in groups.items()):
            found.append(
                f"{label} {s['checks']} {s['failed']} {s['cosine']['minimum']:.7f} "
                f"{s['cosine']['mean']:.7f} ± {s['cosine']['ci95']:.1e} {s['max_abs_error']['maximum']:.1e}"
            )
    return found


@pytest.mark.parametrize("name", ["sound", "wrong"])
def test_the_summary_is_on_the_page(bundles: dict[str, Path], name: str) -> None:
    text = browser.text((bundles[name] / "parity.html").read_text(encoding="utf-8"))
    missing = [e for e in _expected(_json(bundles[name])) if " ".join(e.split()) not in text]
    assert missing == []


def test_the_verdict_comes_first_and_in_words(bundles: dict[str, Path]) -> None:
    pages = {n: browser.text((b / "parity.html").read_text(encoding="utf-8")) for n, b in bundles.items()}
    assert "This bundle gives the reference's vectors All" in pages["sound"][:300]
    assert "Do not use this bundle as it is onnx/fp32 failed" in pages["wrong"][:300]
    assert "What is wrong: prompt missing." in pages["wrong"]
    assert "<script>alert('x')</script> & \\u0000 \\u202e" in pages["wrong"], "a text that failed, visible"


def test_nothing_is_fetched_and_nothing_runs(bundles: dict[str, Path]) -> None:
    for bundle in bundles.values():
        page = (bundle / "parity.html").read_text(encoding="utf-8")
        assert not re.search(r"<script|<link|<img|@import|url\(|\bsrc=|https?://", page)


def test_the_page_is_a_pure_function_of_the_json(bundles: dict[str, Path]) -> None:
    data = _json(bundles["wrong"])
    assert report.render(data) == report.render(json.loads(json.dumps(data)))


def test_plots_have_words_for_those_who_cannot_see_them(bundles: dict[str, Path]) -> None:
    page = (bundles["sound"] / "parity.html").read_text(encoding="utf-8")
    images = re.findall(r"<svg[^>]*>", page)
    assert len(images) == 5
    assert all('role="img"' in i and re.search(r'aria-label="[^"]{20,}"', i) for i in images)


def _contrast(a: str, b: str) -> float:
    """WCAG 2 contrast ratio of two colours like #1b1f24."""

    def luminance(colour: str) -> float:
        whole = "".join(2 * c for c in colour) if len(colour) == 3 else colour
        parts = [int(whole[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_have_contrast() -> None:
    style = Path(report.__file__).with_name("report.html").read_text(encoding="utf-8")
    themes = re.findall(r":root \{(.*?)\}", style, re.S)
    assert len(themes) == 2
    for theme in themes:
        colours = dict(re.findall(r"--(\w+): #([0-9a-f]+)", theme))
        for name in ("ink", "soft", "good", "bad", "dot"):
            for ground in ("paper", "panel"):
                assert _contrast(colours[name], colours[ground]) >= 4.5, (name, ground)


@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser(bundles: dict[str, Path], width: int, tmp_path: Path) -> None:
    """The figures are there once a browser has built the page, and nothing sticks out on a phone."""
    page = browser.needed(bundles["wrong"] / "parity.html")
    built = browser.text(browser.dom(page, tmp_path))
    assert [e for e in _expected(_json(bundles["wrong"])) if " ".join(e.split()) not in built] == []
    assert browser.inner_width(page, width, tmp_path) == width
    data = (bundles["wrong"] / "parity.json").read_text(encoding="utf-8")
    full_size = browser.needed(tmp_path / "full.html")  # its names are longer
    full_size.write_text(report.render(json.loads(data.replace("dim 64,", "dim 768,"))), encoding="utf-8")
    assert browser.cut_off(full_size, width, tmp_path) == []


def test_on_paper(bundles: dict[str, Path], tmp_path: Path) -> None:
    """What is folded up on the screen is printed too."""
    printed = browser.pdf(browser.needed(bundles["wrong"] / "parity.html"), tmp_path)
    groups = _json(bundles["wrong"])["graphs"]["onnx/fp32"]["groups"]
    labels = [label for name in groups for label in groups[name]]
    assert len(labels) > 8 and [label for label in labels if label not in printed] == []


def test_a_snippet_for_a_model_card(bundles: dict[str, Path]) -> None:
    data = _json(bundles["wrong"])
    text = card.snippet(data)
    graph = data["graphs"]["onnx/fp32"]
    assert f"| onnx/fp32 | float32 | failed | {graph['checks']} | {graph['cosine']['minimum']:.6f} |" in text
    assert data["reference"]["name"] in text and data["machine"]["cpu"] in text
    assert f"with ONNX Runtime {data['versions']['onnxruntime']} on " in text
    both = {**data["graphs"], "litert/int8": graph}
    versions = {"sentence-transformers": "6", "onnxruntime": "1", "ai-edge-litert": "2"}
    text = card.snippet({**data, "graphs": both, "versions": versions})
    assert "with ONNX Runtime 1 and LiteRT 2 on" in text


def test_assert_parity(
    bundles: dict[str, Path], tiny_checkpoint: Path, reference: Reference, tmp_path: Path
) -> None:
    own = [t.text for t in OWN[1:]]
    report = assert_parity(bundles["sound"], tiny_checkpoint, own)
    assert report.passed and report.probes == "texts"
    with pytest.raises(AssertionError, match="onnx/fp32: FAILED") as failure:
        assert_parity(bundles["wrong"], str(tiny_checkpoint), own)
    assert "prompt 'query' is ''" in str(failure.value)
    answers = reference.answer(probes.of_texts(OWN[1:], reference.prompts))
    reference_file.save(answers, tmp_path / "r.npz")
    for stored in (answers, tmp_path / "r.npz", str(tmp_path / "r.npz")):
        assert assert_parity(bundles["sound"], stored).passed
        with pytest.raises(InputError, match="need the checkpoint itself"):
            assert_parity(bundles["sound"], stored, own)


def test_assert_parity_sees_what_no_vector_shows(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A factor that the next norm takes away: the checkpoint's own weights are asked about."""
    planted.FAULTS["int8: a tensor's scales x 1.1"][1](monkeypatch)
    monkeypatch.setattr(graphs, "audit_graph", lambda *_: 0)
    options = ExportOptions(precisions=("int8",))
    export_bundle(load_checkpoint(tiny_checkpoint), tmp_path / "b", options, "checked by the test itself")
    with pytest.raises(AssertionError, match=r"stored weights: \d+ of \d+ tensors are the checkpoint's"):
        assert_parity(tmp_path / "b", tiny_checkpoint, [t.text for t in OWN[1:]])


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        report.write(tmp_path)
    (tmp_path / "parity.json").write_text('{"schema_version": 99}', encoding="utf-8")
    with pytest.raises(InputError, match="schema_version 99; this version renders 1"):
        report.write(tmp_path)


def test_figures_that_are_missing(bundles: dict[str, Path]) -> None:
    data = _json(bundles["sound"])
    del data["graphs"]["onnx/fp32"]["norm_error"]
    with pytest.raises(InputError, match=r"lacks a figure .*norm_error.* Run validate-embedding again"):
        report.render(data)


def test_four_bits_are_shown_not_judged(bundles: dict[str, Path]) -> None:
    data = _json(bundles["sound"])
    assert "4 bits" not in report.render(data)
    graph = data["graphs"]["onnx/fp32"]
    data["graphs"]["onnx/int4"] = {**graph, "precision": "int4", "cosine": {**graph["cosine"], "mean": 0.9}}
    said = "The loss of 4 bits is shown, not judged; the mean cosine to the reference: onnx/int4 0.9000000."
    assert said in browser.text(report.render(data))
    point = {"part": None, "bytes": 9, "estimated_cosine": 0.9, "cosine": 0.9}
    made = {"target_cosine": 0.9, "bits": {"table": 4}, "texts": 42, "curve": [point, {**point, "bytes": 12}]}
    data["graphs"]["onnx/int4"] |= {"composition": made, "bytes": 12}
    page = report.render(data)
    assert "The loss of 4 bits" not in page and "How it was composed for a mean cosine of 0.9" in page
    assert "composed for a mean cosine of 0.9" in card.snippet(data)


def test_plots() -> None:
    log, even = Axis("x", 1, 1024, base=2), Axis("y", 0, 8)
    assert log.place(32) == 0.5 and even.place(2) == 0.25
    assert (log.place(0.5), log.place(9999), even.place(-1)) == (0, 1, 0)
    assert log.ticks() == [1, 4, 16, 64, 256, 1024] and even.ticks() == [0, 2, 4, 6, 8]
    drawn = plots.scatter([Point(1, 1, "a<b"), Point(2, 2, "c", failed=True)], log, even, "two", limit=4)
    assert drawn.count("<circle") == 1 and drawn.count("<path") == 1 and "a&lt;b" in drawn
    assert 'class="limit"' in drawn and "limit" not in plots.scatter([], log, even, "none")
    bars = plots.histogram([1, 1, 1024], log, "three")
    assert bars.count('<rect class="bar"') == 2 and "<title>2</title>" in bars
    assert plots.rows({"a": (4, True), "b": (8, False)}, even, "two").count('class="bar failed"') == 1
