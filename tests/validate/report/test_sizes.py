"""Size against loss on the report's page: what is drawn is what `parity.json` says."""

import html
import re
from typing import Any

from embedding_validate.report import sizes


def _graph(size: int, mean: float, overlap: float | None) -> dict[str, Any]:
    ranking = None if overlap is None else {"top_k_overlap": overlap, "top_k": 10}
    return {"bytes": size, "cosine": {"mean": mean}, "ranking": ranking}


def _titles(svg: str) -> list[str]:
    return [html.unescape(t) for t in re.findall(r"<(?:circle|path)[^>]*><title>([^<]*)</title>", svg)]


def test_graphs_of_a_bundle_are_drawn_by_size() -> None:
    graphs = {"onnx/int8": _graph(312_000_000, 0.9997, 0.98), "onnx/int4": _graph(196_000_000, 0.996, 0.9)}
    (losses, caption), (overlaps, _) = sizes.figures(graphs)
    assert _titles(losses) == [
        "onnx/int8: mean cosine 0.99970, 312.0 MB",
        "onnx/int4: mean cosine 0.99600, 196.0 MB",
    ]
    assert _titles(overlaps) == [
        "onnx/int8: overlap 0.980, 312.0 MB",
        "onnx/int4: overlap 0.900, 196.0 MB",
    ]
    x, y = (
        list(map(float, re.findall(rf'<circle class="dot" [^>]*{axis}="([\d.]+)"', losses)))
        for axis in ("cx", "cy")
    )
    assert x[0] > x[1] and y[0] > y[1], "larger to the right, less loss below"
    assert "1 - mean cosine" in caption


def test_one_graph_and_older_reports_have_nothing_to_compare() -> None:
    assert sizes.figures({"onnx/int8": _graph(1, 0.99, 0.9)}) == []
    old = {"cosine": {"mean": 0.9}, "ranking": None}
    assert sizes.figures({"a": old, "b": old}) == []
    assert len(sizes.figures({"a": _graph(5, 1.0, None), "b": _graph(9, 0.9, 0.5)})) == 1


def test_a_composition_is_drawn_with_what_was_weighed() -> None:
    curve = [
        {"part": None, "bytes": 180_000_000, "estimated_cosine": 0.99, "cosine": None},
        {"part": "late downs", "bytes": 183_000_000, "estimated_cosine": 0.994, "cosine": 0.9949},
        {"part": "table", "bytes": 280_000_000, "estimated_cosine": 0.996, "cosine": 0.9961},
    ]
    made = {
        "target_cosine": 0.995,
        "bits": {"table": 8, "late downs": 8, "gates": 4},
        "texts": 42,
        "curve": curve,
    }
    svg, caption = sizes.curve("onnx/int4", made)
    assert _titles(svg) == [
        "4 bits everywhere: 180.0 MB, cosine 0.99000 (estimated)",
        "8 bits in late downs too: 183.0 MB, cosine 0.99490 (measured)",
        "8 bits in table too: 280.0 MB, cosine 0.99610 (measured)",
    ]
    assert svg.count("<path") == 2 and svg.count("<circle") == 1 and 'class="limit"' in svg
    assert "2 of 3 were run on 42 texts" in caption and caption.endswith("8 bits in: table, late downs.")
