"""The systems that `compare-embedding` compares: the graphs of bundles, PyTorch on the checkpoint, and peers.

It says for each how to start it, which files it reads and what is known about it.
"""

import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import embedding_validate
from embedding_runtime.bundle import BundleGraph, Manifest, bundle_graphs, load_manifest
from embedding_runtime.errors import EngineError, InputError
from embedding_runtime.opening.selection import choose_graph
from embedding_runtime.tokenizers.tokenizer import open_tokenizer
from embedding_validate.compare.document.document import (
    GraphEntry,
    ManifestVerdict,
    PeerEntry,
    PerTensorEntry,
    ReportVerdict,
    Size,
    SystemEntry,
    TorchEntry,
)
from embedding_validate.compare.measure import worker as compare_worker
from embedding_validate.compare.measure.process import System
from embedding_validate.compare.measure.run import Subject, TokenIds
from embedding_validate.compare.measure.sizes import by_part
from embedding_validate.parity.results import PARITY
from embedding_validate.probes.texts import packaged

_WORKER = (sys.executable, "-m", compare_worker.__name__)
_PACKAGES = Path(embedding_validate.__file__).parents[1]
_TORCH_FP32 = "torch fp32"
_MOST_BITS_FIRST = ("fp32", "fp16", "int8", "int8_q4", "mixed", "int4")
# Of the texts for accuracy: tokens of one at most, and how many of the user's own.
_MOST_TOKENS, _MOST_OWN = 256, 100
_WEIGHTS = ("*.safetensors", "*/*.safetensors")


@dataclass(frozen=True)
class Candidate:
    """A system to measure, and its entry in `compare.json` besides measurements.

    `model` tells whose vectors it gives: the `space_id` of its bundle, or a text that no bundle has there.
    """

    subject: Subject
    about: SystemEntry
    model: str


@dataclass(frozen=True)
class Bundle:
    """A bundle's manifest, and the prefix of its graphs' names, which is empty if there is only one
    bundle."""

    path: Path
    manifest: Manifest
    prefix: str

    @property
    def graphs(self) -> tuple[BundleGraph, ...]:
        """Its graphs."""
        return bundle_graphs(self.path, self.manifest)

    def named(self, graph: BundleGraph) -> str:
        """A graph's name in the comparison."""
        return f"{self.prefix}{graph.key}"


def read_bundles(paths: Sequence[Path]) -> list[Bundle]:
    """The bundles.

    Raises:
        BundleError: one of them is not a bundle.
        InputError: two have the same name.
    """
    manifests = [load_manifest(path) for path in paths]
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        raise InputError(f"Two bundles have the same name: {', '.join(names)}. Rename a folder.")
    prefixes = ["" if len(paths) == 1 else f"{name} " for name in names]
    return [Bundle(*fields) for fields in zip(paths, manifests, prefixes, strict=True)]


def of_bundles(bundles: Sequence[Bundle], keys: Sequence[str] | None, cache: Path) -> list[Candidate]:
    """Every graph, or those whose key (`onnx/int8`) is requested.

    Raises:
        InputError: a key that no bundle has.
    """
    have = {graph.key for bundle in bundles for graph in bundle.graphs}
    if unknown := set(keys or ()) - have:
        missing = ", ".join(key or "''" for key in sorted(unknown))
        raise InputError(f"No graph {missing}; there are {', '.join(sorted(have))}.")
    return [
        _graph(bundle, graph, cache)
        for bundle in bundles
        for graph in bundle.graphs
        if keys is None or graph.key in keys
    ]


def _graph(bundle: Bundle, bundle_graph: BundleGraph, cache: Path) -> Candidate:
    graph, sizes, parity = bundle_graph.graph, bundle_graph.sizes, _parity(bundle_graph)
    spec = {
        "kind": "bundle",
        "bundle": str(bundle.path),
        "format": graph.format,
        "precision": graph.precision,
        "allow_failed": parity.status == "failed",
    }
    name, tokenizer = bundle.named(bundle_graph), bundle.manifest.tokenizer.file
    subject = Subject(
        System(name, _WORKER, spec),
        tuple(bundle.path / n for n in (*sizes, tokenizer)),
        {"XDG_CACHE_HOME": str(cache / name.replace("/", "-"))},
        "prepares",
    )
    about = GraphEntry(
        name=name,
        kind="bundle",
        bundle=str(bundle.path),
        format=graph.format,
        precision=graph.precision,
        variant_id=graph.variant_id,
        files=sizes,
        bytes=sum(sizes.values()),
        tokenizer_bytes=bundle.manifest.files[tokenizer].size,
        parts=by_part(bundle_graph),
        buckets=graph.buckets,
        parity=parity,
        target_cosine=graph.composition.target_cosine if graph.composition else None,
    )
    return Candidate(subject, about, bundle.manifest.space_id)


def _parity(bundle_graph: BundleGraph) -> ReportVerdict | ManifestVerdict:
    """The verdict in `parity.json` if that describes exactly this graph, else the manifest's."""
    graph = bundle_graph.graph
    try:
        entry = json.loads((bundle_graph.folder / PARITY).read_text(encoding="utf-8"))["graphs"][graph.key]
        if entry["variant_id"] == graph.variant_id:
            return ReportVerdict(
                from_="parity.json",
                status=entry["status"],
                reason=entry["reason"],
                texts=entry["texts"],
                cosine_min=(entry["cosine"] or {}).get("minimum"),
                cosine_mean=(entry["cosine"] or {}).get("mean"),
                max_abs_error=(entry["max_abs_error"] or {}).get("maximum"),
            )
    except (OSError, ValueError, KeyError, TypeError):
        pass  # the manifest has a verdict too
    verdict = graph.parity
    return ManifestVerdict(
        from_="manifest.json",
        status=verdict.status,
        reason=verdict.reason,
        texts=verdict.texts,
        cosine_min=verdict.cosine_min,
        max_abs_error=verdict.max_abs_error,
        floors=verdict.floors,
    )


def per_tensor(bundle: Bundle) -> Candidate:
    """The bundle's ONNX int8 graph with one scale per tensor of activations: what a scale per token costs.

    Raises:
        InputError: it has no such graph, or the package that rewrites it is not installed.
    """
    graph = next((g for g in bundle.graphs if g.key == "onnx/int8"), None)
    if graph is None or importlib.util.find_spec("onnx") is None:
        raise InputError("--per-tensor needs a graph onnx/int8, and pip install 'embedding-edge[export]'.")
    name, sizes = f"{bundle.named(graph)} per tensor", graph.sizes
    system = System(name, _WORKER, {"kind": "per-tensor", "graph": str(graph.path)})
    about = PerTensorEntry(name, "per-tensor", sizes, sum(sizes.values()))
    files = tuple(bundle.path / n for n in sizes)
    return Candidate(Subject(system, files), about, bundle.manifest.space_id)


@dataclass(frozen=True)
class Original:
    """The checkpoint that PyTorch and peers run: its folder, its weights' hash, how many tokens it knows, and
    the bundle that was made from it, if there is one."""

    folder: str
    weights_sha256: str
    vocab_size: int
    bundle: Bundle | None

    @property
    def model(self) -> str:
        """The bundle's space, or the weights: another model than every bundle's."""
        return self.bundle.manifest.space_id if self.bundle else self.weights_sha256


def read_original(checkpoint: str, bundles: Sequence[Bundle]) -> Original:
    """Read a checkpoint's folder completely, and find the bundle that gives its vectors.

    Raises:
        InputError: not a folder (the comparison does not download).
        CheckpointError: it is damaged, or of a kind that is not supported.
    """
    from embedding_export.checkpoint.checkpoint import load_checkpoint  # needs an extra

    if not Path(checkpoint).is_dir():
        raise InputError(f"--reference is {checkpoint!r}; expected a checkpoint's folder.")
    read = load_checkpoint(checkpoint)
    facts = (
        read.source.weights_sha256,
        read.config.vocab_size,
        read.config.window,
        read.include_prompt,
        read.do_lower_case,
        read.normalize,
        [dense.activation for dense in read.dense],
    )
    made = next((bundle for bundle in bundles if _facts(bundle.manifest) == facts), None)
    return Original(checkpoint, read.source.weights_sha256, read.config.vocab_size, made)


def shared_vocab_size(bundles: Sequence[Bundle], original: Original | None) -> int:
    """Ids below it are tokens of every model, so that times are taken with the same ids."""
    sizes = [bundle.manifest.architecture.vocab_size for bundle in bundles]
    return min([*sizes, original.vocab_size] if original else sizes)


def _facts(manifest: Manifest) -> tuple[object, ...]:
    """What decides about a bundle's vectors and can be read off its checkpoint too."""
    stages = manifest.stages
    return (
        manifest.source.weights_sha256,
        manifest.architecture.vocab_size,
        manifest.architecture.window,
        manifest.include_prompt,
        manifest.tokenizer.do_lower_case,
        any(stage.type == "normalize" for stage in stages),
        [stage.activation for stage in stages if stage.type == "dense"],
    )


def torch(original: Original, dtype: str, longest: int) -> Candidate:
    """sentence-transformers on a checkpoint, texts cut to `longest` tokens."""
    checkpoint, folder = original.folder, Path(original.folder)
    name = _TORCH_FP32 if dtype == "float32" else "torch bf16"
    files = tuple(sorted({p for pattern in _WEIGHTS for p in folder.glob(pattern)}))
    spec = {"kind": "torch", "checkpoint": checkpoint, "dtype": dtype, "longest": longest}
    sizes = {p.name: p.stat().st_size for p in files}
    about = TorchEntry(name, "torch", sum(p.stat().st_size for p in files), sizes)
    return Candidate(Subject(System(name, _WORKER, spec), files), about, original.model)


def peer(argument: str, original: Original | None, bundles: Sequence[Bundle]) -> Candidate:
    """`NAME=PYTHON=SCRIPT`: a worker script run by the Python of an environment of its own.

    It is given the checkpoint and the bundle made from it, or the first bundle; where there is no such
    bundle, nobody knows which of the two the script runs, and its model is its own. Converted files are kept
    beside that environment, per checkpoint; `size_of` adds up their sizes later.

    Raises:
        InputError: anything else.
    """
    name, _, command = argument.partition("=")
    python, _, script = command.partition("=")
    if not Path(python).is_file() or not Path(script).is_file():
        raise InputError(f"--peer is {argument!r}; expected NAME=PYTHON=SCRIPT with two files that exist.")
    bundle = original.bundle if original and original.bundle else bundles[0]
    manifest = bundle.manifest
    weights = original.weights_sha256 if original else manifest.source.weights_sha256
    # Not resolved: a virtual environment's python is a link to another one's.
    folder = Path(python).absolute().parents[1] / f"converted-{weights[:12]}"
    environment = {"PYTHONPATH": str(_PACKAGES), "XDG_CACHE_HOME": str(folder)}
    spec = {
        "kind": name,
        "checkpoint": original.folder if original else None,
        "bundle": str(bundle.path),
        "dim": manifest.embedding_dim,
    }
    system = System(name, (str(Path(python).absolute()), script), spec)
    about = PeerEntry(name, "peer", python, script, str(folder))
    model = name if original and not original.bundle else manifest.space_id
    return Candidate(Subject(system, (), environment, "converts"), about, model)


def size_of(candidate: Candidate) -> Size:
    """Bytes of the files that a system opens; a peer's are those that it has made by now, which begin with
    its name."""
    about = candidate.about
    if not isinstance(about, PeerEntry):
        return Size(about.bytes, about.files)
    folder = Path(about.converted)
    files = sorted(p for start in folder.glob(f"{candidate.subject.name}*") for p in _files(start))
    sizes = {str(p.relative_to(folder)): p.stat().st_size for p in files}
    return Size(sum(sizes.values()) or None, sizes)


def tokenizer(bundle: Bundle) -> Subject:
    """A bundle's tokenizer as something to be timed."""
    spec = {"kind": "tokenizer", "bundle": str(bundle.path)}
    return Subject(System(f"{bundle.prefix}tokenizer", _WORKER, spec), ())


def texts(bundles: Sequence[Bundle], own: Sequence[str]) -> TokenIds:
    """Token ids of the texts on which accuracy is measured: the package's, and the first of the user's own.

    `bundles` are of one model. The texts are truncated to a length that every graph and peer can run at
    little cost.
    """
    path, info = bundles[0].path, bundles[0].manifest.tokenizer
    opened = open_tokenizer(path, info, verify=False)
    buckets = [max(g.buckets) for b in bundles for g in b.manifest.graphs if g.buckets]
    longest = min([_MOST_TOKENS, *buckets, *(b.manifest.max_seq_length for b in bundles)])
    sample = [t.text for t in packaged()] + list(own[:_MOST_OWN])
    return tuple(dict.fromkeys(tuple(map(int, opened.encode(text, longest))) for text in sample))


def accuracy_texts(
    candidates: Sequence[Candidate], bundles: Sequence[Bundle], own: Sequence[str]
) -> dict[str, TokenIds]:
    """For each accuracy base, the token ids of the texts by its own model's tokenizer."""
    bases = set(accuracy_bases(candidates, bundles).values())
    return {
        c.subject.name: texts([b for b in bundles if b.manifest.space_id == c.model], own)
        for c in candidates
        if c.subject.name in bases
    }


def first_choice(candidates: Sequence[Candidate], bundles: Sequence[Bundle]) -> str:
    """The name of the reference case: of the graphs that are compared, the one that the runtime would choose
    in the first bundle where it chooses any, else the first."""
    compared = {c.subject.name for c in candidates}
    for bundle in bundles:
        graphs = [g for g in bundle.graphs if bundle.named(g) in compared]
        try:
            chosen = choose_graph(replace(bundle.manifest, graphs=tuple(g.graph for g in graphs)), None, None)
            return next(bundle.named(g) for g in graphs if g.graph is chosen)
        except (InputError, EngineError):  # int4 alone, which is taken only when asked for; or no engine
            continue
    return candidates[0].subject.name


def by_model(candidates: Sequence[Candidate]) -> dict[str, list[Candidate]]:
    """The systems of each model, in order."""
    models: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        models.setdefault(candidate.model, []).append(candidate)
    return models


def accuracy_bases(candidates: Sequence[Candidate], bundles: Sequence[Bundle]) -> dict[str, str]:
    """By system, the base that its accuracy is measured against: the most exact system of its model.

    Where there are several models, a system that is alone of its model has none, nor has one whose model has
    no bundle, and so no tokenizer here.
    """
    models, spaces = by_model(candidates), {bundle.manifest.space_id for bundle in bundles}
    return {
        candidate.subject.name: most_exact(those)
        for model, those in models.items()
        for candidate in those
        if len(models) == 1 or (model in spaces and len(those) > 1)
    }


def most_exact(candidates: Sequence[Candidate]) -> str:
    """Of systems of one model, the name of the accuracy's base: PyTorch in fp32, else the graph with the most
    bits, else the first."""
    if any(c.subject.name == _TORCH_FP32 for c in candidates):
        return _TORCH_FP32
    for precision in _MOST_BITS_FIRST:
        for about in (c.about for c in candidates):
            if isinstance(about, GraphEntry) and about.precision == precision:
                return about.name
    return candidates[0].subject.name


def _files(start: Path) -> list[Path]:
    return [p for p in start.rglob("*") if p.is_file()] if start.is_dir() else [start]


def require_torch() -> None:
    """Raise early if the packages that `torch` needs are missing.

    Raises:
        InputError: sentence-transformers is not installed.
    """
    if importlib.util.find_spec("sentence_transformers") is None:
        raise InputError(
            "--reference needs sentence-transformers: pip install 'embedding-edge[validate]'. Without it "
            "accuracy is taken to the bundle's own most exact graph."
        )
