"""The exporter's gate: parity of every graph, and of a wrong one what is wrong with it.

Knows nothing of how either is found: it asks the reference once, `parity` and then `diagnosis`.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from embedding_runtime.bundle import BundleGraph, Parity, bundle_graphs, load_manifest
from embedding_runtime.errors import EmbeddingError
from embedding_validate.machine import versions
from embedding_validate.parity.parity import Progress, check_graph, silent
from embedding_validate.probes import probes, texts
from embedding_validate.reference.answers import Answers

if TYPE_CHECKING:
    from embedding_export.checkpoint.checkpoint import Checkpoint
    from embedding_validate.parity.execution import Execution


def parity_gate(
    checkpoint: "Checkpoint", progress: Progress = silent
) -> Callable[[Path], Mapping[str, Parity]]:
    """The exporter's gate: the short set of probes, the reference loaded at its first call and asked once.

    The gate never raises for a bundle that cannot be run: its graphs have failed. Where a graph is wrong, the
    reference is loaded again to say what is wrong.

    Raises (when called):
        ReferenceLoadError: the reference cannot be loaded, or is not the model that the checkpoint describes.
    """

    # Late: torch is needed only where a graph is judged.
    from embedding_validate.reference.reference import Reference, ask

    @cache
    def answers(buckets: tuple[int, ...]) -> Answers:
        return ask(
            checkpoint,
            lambda r: probes.short(texts.packaged(), r.prompts, replace(r.limits, buckets=buckets), r.count),
            partial(progress, "reference"),
        )

    def judge(bundle: Path) -> dict[str, Parity]:
        manifest = load_manifest(bundle)
        buckets = probes.buckets(manifest.graphs)
        return {g.key: judge_graph(g, buckets) for g in bundle_graphs(bundle, manifest)}

    @cache
    def execution(buckets: tuple[int, ...]) -> "Execution":
        from embedding_validate.parity.execution import Execution

        return Execution(checkpoint, answers(buckets))

    def judge_graph(graph: BundleGraph, buckets: tuple[int, ...]) -> Parity:
        asked = answers(buckets)
        used = {**versions(), **asked.versions}
        try:
            expected = asked.for_bundle(graph.folder, graph.manifest)
            report = check_graph(graph, expected, progress, execution=execution(buckets))
            if report.status == "failed":
                from embedding_validate.diagnosis.diagnosis import (
                    diagnose_graph,  # torch: not for a plain comparison
                )

                report = diagnose_graph(graph, report, Reference.load(checkpoint), asked)
            return report.as_parity(used)
        except EmbeddingError as e:
            return Parity("failed", f"the runtime refuses it: {e}", versions=used)

    return judge
