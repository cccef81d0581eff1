"""The exporter's gate: checks the parity of every graph, and diagnoses the wrong ones.

It computes the reference's answers once and hands them to `parity`, then to `diagnosis`.
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
    """The exporter's gate: it uses the short set of probes, and loads the reference once, at its first call.

    The gate never raises for a bundle that cannot be run: its graphs have failed. If a graph is wrong, the
    reference is loaded again for the diagnosis.

    Raises (when called):
        ReferenceLoadError: the reference cannot be loaded, or is not the model that the checkpoint describes.
    """

    # Late: torch is needed only where a graph is judged.
    from embedding_validate.reference.reference import Reference, ask

    @cache
    def answers(buckets: tuple[int, ...], held_out: bool) -> Answers:
        def choose(r: Reference) -> probes.ProbeSet:
            limits = replace(r.limits, buckets=buckets, held_out=held_out)
            return probes.short(texts.packaged(), r.prompts, limits, r.count)

        return ask(
            checkpoint,
            choose,
            partial(progress, "reference"),
        )

    def judge(bundle: Path) -> dict[str, Parity]:
        manifest = load_manifest(bundle)
        needs = probes.buckets(manifest.graphs), probes.composed(manifest.graphs)
        return {g.key: judge_graph(g, needs) for g in bundle_graphs(bundle, manifest)}

    @cache
    def execution(needs: tuple[tuple[int, ...], bool]) -> "Execution":
        from embedding_validate.parity.execution import Execution

        return Execution(checkpoint, answers(*needs))

    def judge_graph(graph: BundleGraph, needs: tuple[tuple[int, ...], bool]) -> Parity:
        reference_answers = answers(*needs)
        package_versions = {**versions(), **reference_answers.versions}
        try:
            expected = reference_answers.for_bundle(graph.folder, graph.manifest)
            report = check_graph(graph, expected, progress, execution=execution(needs))
            if report.status == "failed":
                from embedding_validate.diagnosis.diagnosis import (
                    diagnose_graph,  # torch: not for a plain comparison
                )

                report = diagnose_graph(graph, report, Reference.load(checkpoint), reference_answers)
            return report.as_parity(package_versions)
        except EmbeddingError as e:
            return Parity("failed", f"the runtime refuses it: {e}", versions=package_versions)

    return judge
