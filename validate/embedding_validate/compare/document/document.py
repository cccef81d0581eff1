"""The contents of `compare.json` as frozen dataclasses; only this module reads and writes its fields.

The document is {"schema_version", "runs": [run, ...]}. A run is one command on one machine, one log of a
phone's tool, or a page of published figures; `origin` says which. Times are in seconds, or milliseconds
(`_ms`), files in bytes, memory in kB; None means that there is no figure. Older results lack some fields with
a default.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from embedding_validate.compare.document.browser import BrowserRun
from embedding_validate.compare.document.case import MEASURED, Case
from embedding_validate.compare.document.prediction import DeviceProfile, Prediction
from embedding_validate.compare.document.tool_run import ToolRun
from embedding_validate.records import RecordError, decode, encode, optional

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class RunPlan:
    """What was asked: systems by name, shapes as they are written, and how each case is measured.

    `base` is the system whose vectors accuracy is measured against. Where the systems are of several models,
    `bases` says it for each system, and leaves out those whose model has none.
    """

    systems: tuple[str, ...]
    shapes: tuple[str, ...]
    threads: tuple[int, ...]
    reference: str
    base: str
    rounds: int
    seconds: float | None = optional()
    limit: float | None = optional()
    bases: dict[str, str] | None = optional()


@dataclass(frozen=True)
class RunMachine:
    """The machine as `machine` and `embedding-doctor` describe it; what no report shows is of any type."""

    system: str
    architecture: str
    cpu: str
    cpus: str
    python: str
    board: str
    platform: Any = None
    cpu_kind: str | None = None
    features: dict[str, bool] = field(default_factory=dict)
    cores: Any = None
    quota: float | None = None
    threads: int | None = None
    memory: int | None = None
    memory_available: int | None = None
    memory_limit: int | None = None
    governor: str | None = None
    engines: Any = None


@dataclass(frozen=True)
class LoadAverage:
    """Of 1, 5 and 15 minutes; `after` is None until the run is complete."""

    before: tuple[float, ...]
    after: tuple[float, ...] | None


@dataclass(frozen=True)
class BundleEntry:
    """A bundle that was compared."""

    path: str
    source: str
    weights_sha256: str
    space_id: str
    parameters: int
    random_weights: bool = False
    dim: int | None = None


@dataclass(frozen=True)
class ReportVerdict:
    """What `parity.json` says of a graph."""

    from_: Literal["parity.json"]
    status: str
    reason: str | None
    texts: int
    cosine_min: float | None
    cosine_mean: float | None
    max_abs_error: float | None


@dataclass(frozen=True)
class ManifestVerdict:
    """What the manifest says of a graph."""

    from_: Literal["manifest.json"]
    status: str
    reason: str | None
    texts: int
    cosine_min: float | None
    max_abs_error: float | None
    floors: str | None = None
    cosine_mean: float | None = None


@dataclass(frozen=True)
class GraphEntry:
    """A graph of a bundle: bytes by file and by part, the verdict on it, and the mean cosine that it was
    composed for, if it was."""

    name: str
    kind: Literal["bundle"]
    bundle: str
    format: str
    precision: str
    variant_id: str
    files: dict[str, int]
    bytes: int
    tokenizer_bytes: int
    parts: dict[str, int] | None
    buckets: tuple[int, ...]
    parity: ReportVerdict | ManifestVerdict
    target_cosine: float | None = optional()


@dataclass(frozen=True)
class PerTensorEntry:
    """The int8 graph with one scale per tensor of activations."""

    name: str
    kind: Literal["per-tensor"]
    files: dict[str, int]
    bytes: int


@dataclass(frozen=True)
class TorchEntry:
    """sentence-transformers on the checkpoint."""

    name: str
    kind: Literal["torch"]
    bytes: int
    files: dict[str, int]


@dataclass(frozen=True)
class PeerEntry:
    """Another tool: its Python and script, and the folder of what it converts."""

    name: str
    kind: Literal["peer"]
    python: str
    script: str
    converted: str


SystemEntry = GraphEntry | PerTensorEntry | TorchEntry | PeerEntry


@dataclass(frozen=True)
class Size:
    """Bytes of the files that a system opens."""

    bytes: int | None
    files: dict[str, int]


@dataclass(frozen=True)
class Accuracy:
    """How many texts, and the least and mean cosine of their vectors to the base's."""

    texts: int
    minimum: float
    mean: float


@dataclass(frozen=True)
class Opening:
    """Opening a system: seconds, kB.

    `first_s`: with an empty user cache (hashes, packed weights), only for our graphs;
    `accuracy`: of its vectors of the texts, against the base's;
    `cold_s`: its files, and what was prepared from them, dropped from the page cache, where `dropped` says
    that the system took the hint; warm openings are those of the cases. `command` opens it.
    """

    system: str
    threads: int
    status: str
    reason: str | None = None
    command: tuple[str, ...] = ()
    first_s: float | None = None
    cold_s: float | None = None
    dropped: bool = False
    memory_before: dict[str, int] = field(default_factory=dict)
    memory_loaded: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    accuracy: Accuracy | None = None


@dataclass(frozen=True)
class AccountEntry:
    """Where the time of one graph and shape goes, in ms (see `measure.gemm_account.Account`)."""

    system: str
    peak_operations_per_s: float
    shape: str
    threads: int
    operations: int
    total: float
    at_peak: float
    alone: float
    places: dict[str, float]
    of_peak: float


@dataclass(frozen=True)
class CorpusCost:
    """What a graph, dim and vector precision cost against the base; means over those that ask.

    `overlap` is the share of the base's top k that is found too, `spearman` the rank correlation of all
    scores, `shift_*` the absolute difference of scores (for float32 and int8, whose scores are cosines),
    `ndcg` nDCG at `TOP_K` where pairs say what should be found.
    """

    system: str
    dim: int
    vector_precision: str
    overlap: float
    spearman: float
    shift_mean: float | None
    shift_most: float | None
    ndcg: float | None
    bytes_per_vector: int
    index_bytes: int


@dataclass(frozen=True)
class ChangedText:
    """A text and its first answers before and after; `lost` and `gained` are those of the top k."""

    asked: str
    before: str
    after: str
    overlap: float
    lost: tuple[str, ...]
    gained: tuple[str, ...]


@dataclass(frozen=True)
class ChangedTexts:
    """How many texts have another top k, and those that changed most."""

    count: int
    texts: tuple[ChangedText, ...]


@dataclass(frozen=True)
class CorpusRun:
    """What each graph costs on the user's own texts; `pairs` says whether queries came with answers.

    Where the graphs are of several models, `bases` says for each system what it is compared with, and each
    row of a base has its nDCG.
    """

    file: str
    documents: int
    asked: int
    pairs: bool
    k: int
    base: str
    commands: dict[str, tuple[str, ...]]
    failures: dict[str, str]
    rows: tuple[CorpusCost, ...] = ()
    base_ndcg: float | None = None
    changed: dict[str, ChangedTexts] = field(default_factory=dict)
    bases: dict[str, str] | None = optional()


@dataclass(frozen=True)
class LeftOut:
    """A system that could not be got ready, and why."""

    system: str
    reason: str


@dataclass(frozen=True)
class Run:
    """One command of `compare-embedding` on one machine; `resumed` has the times at which it was resumed."""

    label: str
    origin: Literal["measured"]
    started: str
    finished: str | None
    complete: bool
    command: str
    plan: RunPlan
    machine: RunMachine
    versions: dict[str, str]
    load_average: LoadAverage
    bundles: tuple[BundleEntry, ...]
    systems: tuple[SystemEntry, ...]
    sizes: dict[str, Size] = field(default_factory=dict)
    tokenizers: tuple[Case, ...] = ()
    openings: tuple[Opening, ...] = ()
    cases: tuple[Case, ...] = ()
    accounts: tuple[AccountEntry, ...] = ()
    corpus: CorpusRun | None = None
    left_out: tuple[LeftOut, ...] | None = optional()
    devices: tuple[DeviceProfile, ...] | None = optional()
    predictions: tuple[Prediction, ...] | None = optional()
    resumed: tuple[str, ...] | None = optional()


AnyRun = Run | BrowserRun | ToolRun
_BY_ORIGIN: dict[str, Any] = {MEASURED: Run, "browser": BrowserRun}


@dataclass(frozen=True)
class Document:
    """All runs of a page."""

    runs: tuple[AnyRun, ...]

    @property
    def measured(self) -> tuple[Run, ...]:
        """The runs of `compare-embedding`."""
        return tuple(run for run in self.runs if isinstance(run, Run))

    def to_json(self) -> dict[str, Any]:
        """The document as JSON holds it."""
        return {"schema_version": SCHEMA_VERSION, "runs": [encode(run) for run in self.runs]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Document":
        """Read what `to_json` gave, its version already compared.

        Raises:
            RecordError: a field is missing, not known, or of another type.
        """
        runs = data.get("runs")
        if not isinstance(runs, list):
            raise RecordError("runs is not a list")
        return cls(tuple(_run(run, f"runs[{i}]") for i, run in enumerate(runs)))


def _run(data: Any, where: str) -> AnyRun:
    kind = _BY_ORIGIN.get(str(data.get("origin")), ToolRun) if isinstance(data, dict) else ToolRun
    run: AnyRun = decode(kind, data, where)
    return run
