"""Chooses the graph of a bundle to load, and checks that its verdict allows it."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from embedding_runtime.bundle import BundleGraph, Format, Graph, Manifest, Precision
from embedding_runtime.engines.registry import ENGINES, unfit, usable
from embedding_runtime.errors import BundleError, EngineError, InputError, ParityWarning
from embedding_runtime.machine.platforms import lack, this_platform
from embedding_runtime.manifest.text import read_text
from embedding_runtime.notices import warn

PARITY = "parity.json"
PARITY_SCHEMA_VERSION = 1
# Best first; int4 is only ever taken when asked for, or where it was made for a wanted cosine.
PRECISION_ORDER: tuple[Precision, ...] = ("int8", "int8_q4", "mixed", "fp32", "fp16")
# Best first, for graphs of one precision on a device that has both engines.
FORMAT_ORDER: tuple[Format, ...] = ("onnx", "litert")

_warned: set[tuple[str, str]] = set()


def default_precisions(graphs: Iterable[Graph]) -> tuple[Precision, ...]:
    """`PRECISION_ORDER`, with an int4 graph that was composed for a target before the unquantized."""
    if not any(g.precision == "int4" and g.composition for g in graphs):
        return PRECISION_ORDER
    return (*PRECISION_ORDER[:-2], "int4", *PRECISION_ORDER[-2:])


def choose_graph(manifest: Manifest, format: str | None, precision: str | None) -> Graph:
    """The graph for a format and a precision; None takes the best one whose engine runs here.

    The precision decides before the format: `default_precisions`, then `FORMAT_ORDER`.

    Raises:
        InputError: the bundle has no such graph.
        EngineError: it has, but the engine is not installed, or this CPU cannot run it.
    """
    precisions = default_precisions(manifest.graphs) if precision is None else (precision,)
    formats = FORMAT_ORDER if format is None else (format,)
    by_key: dict[tuple[str, str], Graph] = {(g.precision, g.format): g for g in manifest.graphs}
    candidates = [by_key[p, f] for p in precisions for f in formats if (p, f) in by_key]
    if not candidates:
        have = ", ".join(g.key for g in manifest.graphs) or "none"
        request = f"{format or 'any format'} in {precision or 'the default precisions'}"
        raise InputError(f"The bundle has no graph for {request}; it has: {have}. Export one with --add.")
    for graph in candidates:
        if usable(graph.format):
            return graph
    raise EngineError(
        f"None of the installed engines can run a graph of this bundle. {_how_to_get_one(candidates)}"
    )


def _how_to_get_one(graphs: list[Graph]) -> str:
    """What to install; or, if this platform can have none of the engines, why not."""
    keys: dict[Format, list[str]] = {}
    for graph in graphs:
        keys.setdefault(graph.format, []).append(graph.key)
    lacks = {format: lack(ENGINES[format].name, this_platform()) or unfit(format) for format in keys}
    ways = [f"{ENGINES[f].install} (for {', '.join(names)})" for f, names in keys.items() if not lacks[f]]
    return f"Install one: {'; or '.join(ways)}" if ways else next(filter(None, lacks.values()), "")


def check_parity(bundle_graph: BundleGraph, allow_failed: bool) -> None:
    """Refuse a graph that was found wrong; warn once per process about one that has not been checked.

    The verdict comes from `parity.json` if that describes exactly this graph, else from the manifest.

    Raises:
        BundleError: the verdict is "failed", or `parity.json` is unreadable, and `allow_failed` is false.
    """
    bundle, graph = bundle_graph.folder, bundle_graph.graph
    try:
        verdict = _reported(bundle, graph)
    except BundleError:
        if allow_failed:
            return
        raise
    status = verdict["status"] if verdict else graph.parity.status
    reason = (verdict.get("reason") if verdict else graph.parity.reason) or "no reason given"
    if status == "failed" and not allow_failed:
        raise BundleError(
            f"The graph {graph.key} of {bundle} failed its comparison with the reference ({reason}). "
            "Export it again, choose another precision, or pass allow_failed=True to study it."
        )
    key = (str(bundle.resolve()), graph.variant_id)
    if status == "not run" and key not in _warned:
        _warned.add(key)
        warn(
            f"The graph {graph.key} of {bundle} has not been compared with its reference ({reason}). "
            "Run: validate-embedding BUNDLE --reference CHECKPOINT",
            ParityWarning,
        )


def _reported(bundle: Path, graph: Graph) -> dict[str, Any] | None:
    """This graph's entry in `parity.json`; None when there is none for this `variant_id`."""
    path = bundle / PARITY
    try:
        data = json.loads(read_text(path))
        if data["schema_version"] != PARITY_SCHEMA_VERSION:
            raise ValueError(f"schema_version {data['schema_version']!r}")
        entry: dict[str, Any] | None = data["graphs"].get(graph.key)
        if entry is None or entry["variant_id"] != graph.variant_id:
            return None
        if entry["status"] not in ("passed", "failed", "not run"):
            raise ValueError(f"status {entry['status']!r}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise BundleError(
            f"{path} cannot be read ({type(e).__name__}: {e}). Run validate-embedding again, or remove it."
        ) from e
    return entry
