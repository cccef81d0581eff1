"""The results of a comparison as frozen dataclasses, and their file `parity.json`."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from embedding_runtime.bundle import Parity, Source, Status
from embedding_runtime.manifest.composition import Composition
from embedding_validate.files import replace_text
from embedding_validate.measures.metrics import Figures, Summary
from embedding_validate.measures.ranking import Ranking, ScoreShift
from embedding_validate.measures.thresholds import FLOORS
from embedding_validate.records import encode
from embedding_validate.tutorial.golden import GoldenCase

PARITY = "parity.json"
SCHEMA_VERSION = 1
# The check against the graph's own weights; all others are against the reference's.
EXECUTED = "execution"
# How a failure begins where there is no vector at all.
ERROR = "error: "
# A text in a longer bucket than its smallest.
IN_BUCKET = "bucket {}"
# What an ONNX graph shows beside its vector: the last hidden state of every token.
TOKEN_STATES = "token states"


@dataclass(frozen=True)
class Case:
    """One probe in one arrangement (`alone`, `batch 2`, `dim 256`, ...).

    `prompt` is the prompt's name, the verb, or ""; `tokens` counts the reference's ids; `ids_equal` is None
    if ids were not compared. `failures` says in words what fell short; empty means passed.
    """

    probe: str
    script: str
    prompt: str
    check: str
    tokens: int
    ids_equal: bool | None
    figures: Figures
    failures: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """A named fault and the evidence in words; cosines are the smallest over the evidence."""

    name: str
    evidence: str
    cosine_to_reference: float | None
    cosine_to_fault: float | None


@dataclass(frozen=True)
class Group:
    """The checks of one length class, script, prompt or dim."""

    checks: int
    failed: int
    cosine: Summary
    max_abs_error: Summary


@dataclass(frozen=True)
class Invariance:
    """Largest absolute differences between vectors that should be the same, without the reference's help.

    `batch`: alone against padded in a batch; `runs`: the same call twice; `threads`: one thread against all;
    `buckets`: longer buckets, run by the engine's plain interpreter, against the smallest. None means not
    measured. The differences are for vectors of norm 1; those of longer vectors are divided by the norm.
    """

    batch: float | None
    runs: float | None
    threads: float | None
    buckets: float | None = None


@dataclass(frozen=True)
class WeightReport:
    """The number of stored tensors compared with the checkpoint's, and the faults of those that differ."""

    compared: int
    failures: tuple[str, ...]


@dataclass(frozen=True)
class GraphReport:
    """The verdict on one graph; `mismatches` are facts besides vectors (a prompt, a length) that differ.

    `cosine`, `max_abs_error` and `norm_error` sum up all vectors that are compared with the reference's, and
    `not_finite` counts those with NaN, infinity or another shape; `ids_differ` counts the texts, of
    `ids_compared`, whose token ids are not the reference's. `bytes` are those of the graph and its weights,
    `composition` belongs to a graph that was made for a target cosine.
    """

    status: Status
    reason: str | None
    variant_id: str
    precision: str
    thresholds: dict[str, float]
    texts: int
    checks: int
    failed: int
    cosine: Summary | None
    max_abs_error: Summary | None
    norm_error: Summary | None
    not_finite: int
    ids_compared: int
    ids_differ: int
    seconds: float
    mismatches: tuple[str, ...]
    golden: tuple[GoldenCase, ...]
    cases: tuple[Case, ...]
    groups: dict[str, dict[str, Group]]
    ranking: Ranking | None
    scores: ScoreShift | None
    invariance: Invariance | None
    failed_texts: dict[str, str]
    weights: WeightReport | None = None
    findings: tuple[Finding, ...] = ()
    floors: str = FLOORS[0]
    bytes: int | None = None
    composition: Composition | None = None

    def as_parity(self, versions: dict[str, str]) -> Parity:
        """The short form that the exporter keeps in the manifest."""
        named = "; ".join(f"diagnosis: {f.name} ({f.evidence})" for f in self.findings)
        return Parity(
            status=self.status,
            reason="; ".join(filter(None, (self.reason, named))) or None,
            texts=self.texts,
            cosine_min=_finite(self.cosine.minimum) if self.cosine else None,
            max_abs_error=_finite(self.max_abs_error.maximum) if self.max_abs_error else None,
            floors=self.floors,
            thresholds=self.thresholds,
            versions=versions,
        )


@dataclass(frozen=True)
class Report:
    """The contents of `parity.json`. `graphs` is keyed by `Graph.key`, e.g. `onnx/fp32`."""

    probes: str
    bundle: dict[str, str]
    reference: Source
    versions: dict[str, str]
    machine: dict[str, str]
    graphs: Mapping[str, GraphReport]
    notes: tuple[str, ...] = ()
    schema_version: int = field(default=SCHEMA_VERSION)

    @property
    def passed(self) -> bool:
        """Whether there is a graph, and every graph passed."""
        return bool(self.graphs) and all(g.status == "passed" for g in self.graphs.values())

    def to_json(self) -> str:
        """The report as JSON; figures that are NaN or infinite become null."""
        return json.dumps(encode(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def write(self, bundle: Path) -> Path:
        """Write `parity.json` into the bundle, atomically.

        Raises:
            OSError: the bundle cannot be written to.
        """
        return replace_text(bundle / PARITY, self.to_json())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
