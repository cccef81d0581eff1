"""`parity.html`: one self-contained page, a pure function of `parity.json`. Needs jinja2."""

import json
import math
from importlib import resources
from pathlib import Path
from typing import Any

from embedding_runtime.errors import InputError
from embedding_validate.files import replace_text
from embedding_validate.parity.results import EXECUTED, PARITY, SCHEMA_VERSION, TOKEN_STATES
from embedding_validate.report import plots, sizes
from embedding_validate.report.plots import Axis, Point
from embedding_validate.report.template import environment

HTML = "parity.html"
_MOST_FAILURES = 30
_MOST_BARS = 15
# Precisions whose loss is shown, and not judged but where a graph was made for a wanted cosine.
FOUR_BITS = ("int4", "mixed")
# Errors of 0 are drawn here on a log scale.
_FLOOR = 1e-9

Json = dict[str, Any]


def write(bundle: Path) -> Path:
    """Render the bundle's `parity.json` as `parity.html` beside it.

    Raises:
        InputError: there is no `parity.json`, or one of another schema version.
        ReportError: jinja2 is not installed.  OSError: the bundle cannot be written to.
    """
    path = bundle / PARITY
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise InputError(f"{path} cannot be read ({e}). Run validate-embedding first.") from e
    return replace_text(bundle / HTML, render(data))


def render(data: Json) -> str:
    """The page for a report from `parity.json`.

    Raises:
        InputError: a schema version this code does not know, or figures that it does not find.
        ReportError: jinja2 is not installed.
    """
    if data.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"parity.json has schema_version {data.get('schema_version')!r}; this version renders "
            f"{SCHEMA_VERSION}. Run validate-embedding again."
        )
    templates = environment()
    from jinja2 import UndefinedError

    templates.filters |= {"cosine": _cosine, "small": _small, "visible": _visible}
    template = resources.files(__package__).joinpath("report.html").read_text(encoding="utf-8")
    try:
        graphs = [_graph(key, g) for key, g in data["graphs"].items()]
        passed = bool(graphs) and all(g["status"] == "passed" for g in graphs)
        page: str = templates.from_string(template).render(
            data=data,
            graphs=graphs,
            passed=passed,
            verdict=_verdict(passed),
            sentence=_sentence(graphs, data),
            coarse=_coarse(graphs),
            sizes=[_drawn(*figure) for figure in sizes.figures(data["graphs"])],
        )
    except (KeyError, UndefinedError) as e:
        raise InputError(f"parity.json lacks a figure ({e}). Run validate-embedding again.") from e
    return page


def _verdict(passed: bool) -> str:
    return "This bundle gives the reference's vectors" if passed else "Do not use this bundle as it is"


def _sentence(graphs: list[Json], data: Json) -> str:
    """The verdict in a sentence that needs no knowledge of metrics."""
    bad = [g["key"] for g in graphs if g["status"] != "passed"]
    checks = sum(g["checks"] for g in graphs)
    if not bad:
        return (
            f"All {checks} checks of {len(graphs)} graph{'s' if len(graphs) > 1 else ''} passed: for every "
            f"text, prompt and dimension tried, the vectors agree with sentence-transformers on "
            f"{data['reference']['name']} within what the precision allows."
        )
    return (
        f"{', '.join(bad)} failed: {sum(g['failed'] for g in graphs)} of {checks} checks differ from "
        f"sentence-transformers on {data['reference']['name']} by more than the precision allows."
    )


def _coarse(graphs: list[Json]) -> str:
    """A note for graphs of 4 bits that have passed: the verdict does not judge how much they lose."""
    passed = [g for g in graphs if g["status"] == "passed" and not g.get("composition")]
    lossy = [g for g in passed if g["precision"] in FOUR_BITS and g["cosine"]]
    means = [f"{g['key']} {_cosine(g['cosine']['mean'])}" for g in lossy]
    return (
        f"The loss of 4 bits is shown, not judged; the mean cosine to the reference: {', '.join(means)}."
        if means
        else ""
    )


def _graph(key: str, graph: Json) -> Json:
    failures = [c for c in graph["cases"] if c["failures"]]
    golden = [
        {**c, "within": c["found"] is not None and abs(c["found"] - c["printed"]) <= c["tolerance"]}
        for c in graph["golden"]
    ]
    figures = [_drawn(*figure) for figure in _figures(key, graph)]
    return {
        **graph,
        "key": key,
        "failures": failures[:_MOST_FAILURES],
        "golden": golden,
        "weights": graph.get("weights"),
        "changes": _changes(graph["invariance"] or {}),
        "figures": figures,
    }


def _drawn(svg: str, caption: str) -> Json:
    from markupsafe import Markup  # comes with jinja2

    return {"svg": Markup(svg), "caption": caption}


def _changes(invariance: Json) -> list[tuple[str, float]]:
    """The differences measured for the same text in other circumstances, in words."""
    names = {
        "batch": "alone or batched",
        "runs": "twice",
        "threads": "one thread or all",
        "buckets": "in another bucket",
    }
    return [(words, invariance[n]) for n, words in names.items() if invariance.get(n) is not None]


def _figures(key: str, graph: Json) -> list[tuple[str, str]]:
    """Error against length, cosines, errors per script and per dim, and scores against scores."""
    compared = [c for c in graph["cases"] if c["check"] not in (EXECUTED, TOKEN_STATES)]
    cases = [c for c in compared if c["figures"]["max_abs_error"] is not None]
    if not cases:
        return []
    alone = [c for c in cases if c["check"] == "alone"]
    figures = [_by_length(key, alone, graph["thresholds"].get("max_abs_error")), _cosines(key, cases)]
    figures.append(_bars(key, graph["groups"]["script"], "script"))
    dims = {n: g for n, g in graph["groups"]["arrangement"].items() if n.startswith("dim")}
    figures += [_bars(key, dims, "dimension")] if dims else []
    figures += [_scores(key, graph["scores"])] if graph["scores"] else []
    figures += [sizes.curve(key, graph["composition"])] if graph.get("composition") else []
    return figures


def _by_length(key: str, cases: list[Json], limit: float | None) -> tuple[str, str]:
    errors = [max(c["figures"]["max_abs_error"], _FLOOR) for c in cases]
    y = Axis("max abs error", min(*errors, _FLOOR * 10), max(*errors, (limit or 0) * 3, 1e-6), base=10)
    x = Axis("tokens", 2, max(4, *(c["tokens"] for c in cases)), base=2)
    points = [
        Point(c["tokens"], e, f"{c['probe']}: {e:.1e} at {c['tokens']} tokens", bool(c["failures"]))
        for c, e in zip(cases, errors, strict=True)
    ]
    alt = f"{key}: error against length, {len(points)} texts, largest error {max(errors):.1e}"
    caption = "Error of each text against its length; crosses failed."
    return plots.scatter(points, x, y, alt, limit), caption


def _cosines(key: str, cases: list[Json]) -> tuple[str, str]:
    distances = [max(1 - c["figures"]["cosine"], _FLOOR) for c in cases if c["figures"]["cosine"] is not None]
    x = Axis("1 - cosine", _FLOOR, max(*distances, _FLOOR * 1e4), base=10)
    alt = f"{key}: histogram of 1 - cosine over {len(distances)} checks, largest {max(distances):.1e}"
    caption = "How far the vectors turn away from the reference's: checks per class of 1 - cosine."
    return plots.histogram(distances, x, alt), caption


def _bars(key: str, groups: Json, what: str) -> tuple[str, str]:
    worst = sorted(groups.items(), key=lambda item: -(item[1]["max_abs_error"]["maximum"] or math.inf))
    values = {
        name: (g["max_abs_error"]["maximum"] or 0.0, bool(g["failed"])) for name, g in worst[:_MOST_BARS]
    }
    x = Axis("largest absolute error", 0, max(*(v for v, _ in values.values()), _FLOOR))
    alt = f"{key}: largest absolute error of {len(values)} of {len(groups)} {what}s"
    shown = f"the {len(values)} worst of {len(groups)}" if len(values) < len(groups) else "worst first"
    return plots.rows(values, x, alt), f"Largest error by {what}, {shown}."


def _scores(key: str, scores: Json) -> tuple[str, str]:
    pairs = scores["pairs"]
    values = [v for p in pairs for v in p]
    low, high = min(values), max(values)
    points = [Point(a, b, f"reference {a:.4f}, bundle {b:.4f}") for a, b in pairs]
    alt = (
        f"{key}: similarity of {len(pairs)} pairs of texts, reference against bundle; "
        f"largest shift {scores['largest']:.1e}"
    )
    svg = plots.scatter(points, Axis("reference", low, high), Axis("bundle", low, high), alt)
    return svg, "Similarity of pairs of texts in both; a sound bundle gives a straight line."


def _cosine(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.7f}"


def _small(value: float | None) -> str:
    return "not a number" if value is None or math.isnan(value) else f"{value:.1e}"


def _visible(text: str) -> str:
    """A text with its control and space characters made visible."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
