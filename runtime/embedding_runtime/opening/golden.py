"""Checks that a loaded bundle still gives the ids and vectors that it gave at export."""

from collections.abc import Callable, Iterable

import numpy as np

from embedding_runtime.bundle import SEVEN_BITS, GoldenVector, Graph, TokenizerInfo
from embedding_runtime.engines.registry import takes_seven_bits
from embedding_runtime.errors import BundleError
from embedding_runtime.machine.cpu import cpu_kind
from embedding_runtime.tokenizers.checks import DAMAGED
from embedding_runtime.tokenizers.tokenizer import Tokenizer
from embedding_runtime.vectors import Floats


def check_golden_ids(tokenizer: Tokenizer, info: TokenizerInfo) -> None:
    """Compare the tokenizer's ids with those stored at export.

    Raises:
        BundleError: a text gives other ids, or none; the message names it.
    """
    for golden in info.golden:
        try:
            token_ids = tuple(tokenizer.encode(golden.text))
        except DAMAGED as e:
            raise BundleError(
                f"The tokenizer {info.file} fails on {golden.text!r} ({e!r}). Export the bundle again."
            ) from e
        if token_ids != golden.ids:
            raise BundleError(
                f"The tokenizer {info.file} gives {list(token_ids)} for {golden.text!r}; the manifest says "
                f"{list(golden.ids)}. The tokenizer or its library is not the one the bundle was made with: "
                "export the bundle again."
            )


def golden_tolerance(graph: Graph) -> float | None:
    """The largest difference to a golden vector that a sound engine may show on this CPU; None if nobody
    knows."""
    kind = SEVEN_BITS if takes_seven_bits(graph) else cpu_kind()
    return graph.golden_tolerance.get(kind, graph.golden_tolerance.get("any"))


def golden_difference(golden: Iterable[GoldenVector], run: Callable[[tuple[int, ...]], Floats]) -> float:
    """The largest absolute difference to golden vectors of what `run` maps their ids to, (D,); infinite where
    a vector is not finite or of another size, 0.0 when there is nothing to compare with."""
    worst = 0.0
    for one in golden:
        vector = run(one.ids)
        difference = (
            float(np.max(np.abs(vector - one.vector))) if vector.shape == one.vector.shape else np.inf
        )
        worst = max(worst, difference) if np.isfinite(difference) else np.inf
    return worst


def check_golden_vectors(graph: Graph, run: Callable[[tuple[int, ...]], Floats]) -> float:
    """Compare the graph's vectors with those stored at export; `run` maps token ids to a vector (D,).

    Returns:
        The largest absolute difference found, 0.0 when there is nothing to compare with.

    Raises:
        BundleError: the difference exceeds the tolerance for this kind of CPU, or a vector is not finite.
    """
    tolerance, worst = golden_tolerance(graph), golden_difference(graph.golden, run)
    if tolerance is not None and worst > tolerance:
        raise BundleError(
            f"The graph {graph.key} is off by {worst:.3g} from the vectors stored at export; "
            f"{tolerance:.3g} is allowed on {cpu_kind()}. Upgrade {graph.engine}, or export the bundle again "
            "on this machine; pass allow_failed=True to study it."
        )
    return worst
