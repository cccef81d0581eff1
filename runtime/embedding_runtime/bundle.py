"""The bundle's manifest as frozen dataclasses: the one format that exporter, runtime and validator share.

Only the exporter writes a manifest (`Manifest.to_json`).
"""

import base64
import dataclasses
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.errors import BundleError
from embedding_runtime.manifest.composition import Composition
from embedding_runtime.manifest.decoding import decode, parsed
from embedding_runtime.manifest.text import read_text

# What a bundle of EmbeddingGemma has, and what one has whose global layers have a shape of their own, as
# EmbeddingGemma 2's have: versions that do not know such a model refuse it by this number.
SCHEMA_VERSION, SHAPES_SCHEMA_VERSION = 1, 2
MANIFEST = "manifest.json"

Format = Literal["onnx", "litert"]
Precision = Literal["fp32", "fp16", "int8", "int8_q4", "int4", "mixed"]
Status = Literal["passed", "failed", "not run"]


@dataclass(frozen=True)
class Source:
    """The origin of the weights: `weights_sha256` covers every tensor's name, shape, dtype and bytes.

    `random_weights` marks a stand-in model, whose vectors mean nothing.
    """

    name: str
    revision: str | None
    weights_sha256: str
    dtype: str
    qat: str | None
    notes: tuple[str, ...]
    random_weights: bool = False


@dataclass(frozen=True)
class GlobalLayers:
    """The figures of global layers that differ from those of local ones."""

    num_key_value_heads: int
    head_dim: int


@dataclass(frozen=True)
class Architecture:
    """Figures of the encoder; `window` is the largest |i - j| that a local layer attends over.

    If `global_layers` is None, all layers have the same shape. `per_layer_size` is the width of the input
    that each layer reads from the embeddings through its own gate (None: there is no such input).
    """

    model_type: str
    parameters: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    layer_types: tuple[Literal["local", "global"], ...]
    window: int
    global_layers: GlobalLayers | None = None
    per_layer_size: int | None = None

    @property
    def schema_version(self) -> int:
        """The schema version of such a model's manifest: the first one that can describe the model."""
        own = self.global_layers is not None or self.per_layer_size is not None
        return SHAPES_SCHEMA_VERSION if own else SCHEMA_VERSION


@dataclass(frozen=True)
class Stage:
    """One stage after the encoder, in order; sizes are set for `dense` only."""

    type: Literal["mean_pooling", "dense", "normalize"]
    in_features: int | None = None
    out_features: int | None = None
    bias: bool = False
    activation: Literal["identity", "tanh"] = "identity"


@dataclass(frozen=True)
class GoldenIds:
    """A text and the token ids (`<bos>`, `<eos>` included) that the tokenizer must give for it."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class TokenizerInfo:
    """The tokenizer the runtime opens, its control tokens, and texts for a self-check.

    A vocabulary that is trimmed to an `alphabet` names `kept_ids`: an .npy file, int32 (vocab_size,), with
    the checkpoint's id for each id of this tokenizer. `without_row` are special tokens of the checkpoint
    without a row in its embedding table; they are read as text.
    """

    file: str
    vocab_size: int
    bos_id: int
    eos_id: int
    pad_id: int
    do_lower_case: bool
    golden: tuple[GoldenIds, ...]
    alphabet: str | None = None
    kept_ids: str | None = None
    without_row: tuple[str, ...] = ()


@dataclass(frozen=True)
class GoldenVector:
    """Token ids and the vector this very graph gave for them at export (base64 of little-endian float32)."""

    ids: tuple[int, ...]
    vector_base64: str

    @classmethod
    def of(cls, ids: Iterable[int], vector: NDArray[np.float32]) -> "GoldenVector":
        """Pack a float32 vector of shape (dim,)."""
        return cls(tuple(ids), base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii"))

    @property
    def vector(self) -> NDArray[np.float32]:
        """The vector, float32 of shape (dim,)."""
        return np.frombuffer(base64.b64decode(self.vector_base64), dtype="<f4").astype(np.float32)


@dataclass(frozen=True)
class Parity:
    """The verdict of the exporter's gate on one graph; `reason` says why a check was not run or failed.

    `floors` names the set of bounds that was applied: for trained weights, or for random ones.
    """

    status: Status
    reason: str | None = None
    texts: int = 0
    cosine_min: float | None = None
    max_abs_error: float | None = None
    floors: str | None = None
    thresholds: dict[str, float] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)


# The entry of `Graph.golden_tolerance` for CPUs that round activations to 7 bits.
SEVEN_BITS = "x86-7bit"


@dataclass(frozen=True)
class Graph:
    """One graph: `file` and `external_data` name entries of `Manifest.files`.

    `golden_tolerance` is the largest absolute difference allowed to a golden vector, per kind of CPU ("any"
    where one figure serves all; `SEVEN_BITS` where activations may be rounded to 7 bits). `bit_stable` says
    whether every kind of CPU with 8 bits computes the same, so that vectors differ only by the rounding of
    float32 sums and by quantized values that it tips over; it is false if the engine's own kernels quantize
    differently on other CPUs, and None if nobody has measured it. Such kernels may also sum one row in
    another order than several (onnx/int4 of checkpoints trained for Q4_0, without AVX-512 and VNNI): then a
    text alone and the same text in a batch differ by up to 1e-6 in a component. The hidden states of
    onnx/int8 never do. `composition` belongs to a graph made for a target cosine.
    """

    format: Format
    precision: Precision
    recipe: dict[str, str]
    file: str
    external_data: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    buckets: tuple[int, ...]
    opset: int | None
    engine: str
    engine_min_version: str
    variant_id: str
    golden: tuple[GoldenVector, ...]
    golden_tolerance: dict[str, float]
    parity: Parity
    bit_stable: bool | None = None
    composition: Composition | None = None

    @property
    def key(self) -> str:
        """Its name in reports, e.g. `onnx/fp32`."""
        return f"{self.format}/{self.precision}"


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 (hex) of one file of the bundle."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Everything a client must know about a bundle.

    `truncate_dim` is the number of components of a vector that the checkpoint keeps by default; None means
    all. If `include_prompt` is False, a prompt's tokens are attended to but not averaged: its tokens, `<bos>`
    included, have 2 in the attention mask, those of the text 1.
    """

    schema_version: int
    space_id: str
    source: Source
    versions: dict[str, str]
    architecture: Architecture
    stages: tuple[Stage, ...]
    max_seq_length: int
    embedding_dim: int
    dims: tuple[int, ...]
    prompts: dict[str, str]
    aliases: dict[str, str]
    default_prompt_name: str | None
    similarity_fn_name: Literal["cosine", "dot", "euclidean", "manhattan"]
    tokenizer: TokenizerInfo
    graphs: tuple[Graph, ...]
    files: dict[str, FileRecord]
    truncate_dim: int | None = None
    include_prompt: bool = True

    def to_json(self) -> str:
        """The manifest as written in the bundle; the first schema lacks the fields of the second."""
        data = dataclasses.asdict(self)
        if self.schema_version == SCHEMA_VERSION:
            for name in ("global_layers", "per_layer_size"):
                del data["architecture"][name]
        for graph in data["graphs"]:
            if graph["composition"] is None:  # older versions read the bundle too
                del graph["composition"]
        return json.dumps(data, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = MANIFEST) -> "Manifest":
        """Read a manifest, refusing what this version does not know.

        Raises:
            BundleError: not JSON, another schema version, a field missing, unknown, of a wrong type or
                outside its range, a path that leaves the bundle, or a graph that names a file without a
                record.
        """
        data = parsed(text, where)
        version = data.get("schema_version") if isinstance(data, dict) else None
        if type(version) is not int or not SCHEMA_VERSION <= version <= SHAPES_SCHEMA_VERSION:
            newer = type(version) is int and version > SHAPES_SCHEMA_VERSION
            raise BundleError(
                f"{where} has schema_version {version!r}; this version reads {SCHEMA_VERSION} to "
                f"{SHAPES_SCHEMA_VERSION}. "
                + ("Upgrade embedding-edge." if newer else "Export the bundle again.")
            )
        manifest: Manifest = decode(cls, data, where)
        if manifest.architecture.schema_version != version:
            raise BundleError(
                f"{where} has schema_version {version}, but its architecture needs "
                f"{manifest.architecture.schema_version}. The bundle is damaged: export it again."
            )
        _check_paths(manifest, where)
        _check_ranges(manifest, where)
        return manifest


@dataclass(frozen=True)
class BundleGraph:
    """One graph of a bundle on disk: the bundle's folder, its manifest, and the graph's record in it."""

    folder: Path
    manifest: Manifest
    graph: Graph

    @property
    def key(self) -> str:
        """Its name in reports, e.g. `onnx/fp32`."""
        return self.graph.key

    @property
    def path(self) -> Path:
        """The graph's own file."""
        return self.folder / self.graph.file

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes in bytes of its file and of those with its weights, by their names in the bundle."""
        names = (self.graph.file, *self.graph.external_data)
        return {name: self.manifest.files[name].size for name in names}

    @property
    def max_length(self) -> int:
        """The tokens of a text that it reads: the model's limit, or a shorter largest bucket."""
        return min([self.manifest.max_seq_length, *sorted(self.graph.buckets)[-1:]])


def bundle_graphs(folder: Path, manifest: Manifest) -> tuple[BundleGraph, ...]:
    """Every graph of a bundle, in the manifest's order."""
    return tuple(BundleGraph(folder, manifest, graph) for graph in manifest.graphs)


def load_manifest(bundle: Path) -> Manifest:
    """Read `manifest.json` of a bundle folder.

    Raises:
        BundleError: the folder or its manifest is missing, unreadable or damaged.
    """
    path = bundle / MANIFEST
    try:
        text = read_text(path)
    except (FileNotFoundError, NotADirectoryError) as e:
        what = "has no manifest.json" if bundle.is_dir() else "is not a folder"
        raise BundleError(
            f"{bundle} {what}. Expected a bundle written by export-embedding; "
            "check the path, or create one with: export-embedding CHECKPOINT BUNDLE"
        ) from e
    except (OSError, ValueError) as e:  # not UTF-8, or a path that no system has
        raise BundleError(
            f"{path} cannot be read ({e}). Check its permissions, or export the bundle again."
        ) from e
    return Manifest.from_json(text, str(path))


def _check_paths(manifest: Manifest, where: str) -> None:
    for name in manifest.files:
        parts = PurePosixPath(name).parts
        odd = not name.isprintable() or any(mark in name for mark in "\\:")
        if not parts or name.startswith("/") or odd or ".." in parts:
            raise BundleError(
                f"{where} names the file {name!r}, which lies outside the bundle. Do not use this bundle: "
                "it was not written by export-embedding."
            )
    graph_files = [f for g in manifest.graphs for f in (g.file, *g.external_data)]
    for name in [manifest.tokenizer.file, *graph_files]:
        if name not in manifest.files:
            raise BundleError(
                f"{where} uses {name!r} but has no size and hash for it. Export the bundle again."
            )


def _check_ranges(manifest: Manifest, where: str) -> None:
    graphs = bundle_graphs(Path(), manifest)
    for name, found, fits, expected in [*_ranges(manifest), *(r for g in graphs for r in _graph_ranges(g))]:
        if not fits:
            fault = f"{where}: {name} is {str(found)[:80]}; expected {expected}"
            raise BundleError(f"{fault}. The bundle is damaged: export it again.")


def _ranges(manifest: Manifest) -> Iterator[tuple[str, object, bool, str]]:
    """(name, found, whether it is possible, expected): with other figures every text fails, later."""
    size, length, cut = manifest.embedding_dim, manifest.max_seq_length, manifest.truncate_dim
    keys, known = [g.key for g in manifest.graphs], sorted({"query", "document", *manifest.prompts})
    prompt, ids, most = manifest.default_prompt_name, manifest.tokenizer, manifest.architecture.vocab_size
    control = (ids.bos_id, ids.eos_id, ids.pad_id)
    ends = {(*golden.ids[:1], *golden.ids[-1:]) for golden in ids.golden}
    yield "max_seq_length", length, 3 <= length < 1 << 31, "3 tokens or more"
    yield "dims", manifest.dims, all(1 <= d <= size for d in manifest.dims), f"numbers from 1 to {size}"
    yield "truncate_dim", cut, cut is None or 1 <= cut <= size, f"1 to {size}, or null"
    yield "default_prompt_name", prompt, prompt is None or prompt in known, f"one of {known}, or null"
    yield "vocab_size", ids.vocab_size, 0 < ids.vocab_size <= most, f"1 to the table's {most}"
    yield "bos_id, eos_id, pad_id", control, all(0 <= i < most for i in control), f"ids below {most}"
    yield "ends of golden ids", ends, ends == {control[:2]}, f"<bos> and <eos>, {control[:2]}"
    yield "graphs", keys, len(set(keys)) == len(keys), "no graph twice"


def _graph_ranges(one: BundleGraph) -> Iterator[tuple[str, object, bool, str]]:
    """What a graph is compared by when it is opened: with less than this a wrong one would pass."""
    key, graph, size, rows = one.key, one.graph, one.manifest.embedding_dim, one.manifest.tokenizer.vocab_size
    yield f"{key}: buckets", graph.buckets, all(b >= 2 for b in graph.buckets), "2 tokens or more each"
    yield f"{key}: golden", "empty", bool(graph.golden) or one.max_length < 3, "ids and their vectors"
    most = 0.0
    for golden in graph.golden:
        inside = min(golden.ids, default=-1) >= 0 and max(golden.ids) < rows
        yield f"{key}: ids of golden", golden.ids, inside, f"some, each below {rows}"
        most = max(most, largest := _largest(golden, size))
        yield f"{key}: vector_base64", "damaged", math.isfinite(largest), f"{size} finite numbers of float32"
    # A tolerance of the vectors' own size lets any vector pass.
    narrow = bool(allowed := graph.golden_tolerance) and all(0 <= each < most for each in allowed.values())
    yield f"{key}: golden_tolerance", allowed, narrow or not graph.golden, f"numbers from 0 to {most:.2g}"


def _largest(golden: GoldenVector, size: int) -> float:
    """The largest magnitude of a golden vector's components; NaN if it is not one of `size` components."""
    try:
        vector = golden.vector
    except ValueError:  # not base64, or not of whole numbers of float32
        return math.nan
    return float(np.abs(vector).max()) if vector.shape == (size,) and size > 0 else math.nan
