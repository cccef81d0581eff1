"""Which graphs of a bundle keep their verdict when others are added: those judged with what is still there.

A verdict is about a graph's files, the tokenizer that feeds it, and the facts by which the runtime calls it.
The old manifest has the hashes of the files and the facts; the new one has those of what is on the disk now.
"""

from importlib.metadata import PackageNotFoundError, version

from embedding_runtime.bundle import Graph, Manifest

# What the runtime and the gate read of a manifest, besides graphs and files.
_FACTS = (
    "architecture",
    "stages",
    "max_seq_length",
    "embedding_dim",
    "dims",
    "prompts",
    "default_prompt_name",
    "similarity_fn_name",
    "tokenizer",
    "truncate_dim",
    "include_prompt",
)


def changed_since(old: Manifest, new: Manifest, graph: Graph) -> str | None:
    """What of all that a graph of `old` was judged with is another in `new`, in words; None if nothing is."""
    names = (*_files(old, graph), *_files(new, graph))
    files = [name for name in dict.fromkeys(names) if old.files.get(name) != new.files.get(name)]
    facts = [name for name in _FACTS if getattr(old, name) != getattr(new, name)]
    if old.source.weights_sha256 != new.source.weights_sha256:
        facts.append("weights")
    return f"changed: {', '.join([*files, *facts])}" if files or facts else None


def reason_to_judge(graph: Graph, changed: str | None) -> str | None:
    """Why a graph needs a verdict anew, in words; None if the one that it has still holds. `changed` is what
    `changed_since` says of it."""
    if graph.parity.status != "passed":
        return f"its verdict was {graph.parity.status}"
    if changed:
        return changed
    other = [f"{name} {was}" for name, was in graph.parity.versions.items() if _installed(name) != was]
    return f"it was judged with {', '.join(other)}" if other else None


def _files(manifest: Manifest, graph: Graph) -> tuple[str, ...]:
    """Those that are opened to run a graph."""
    tokenizer = manifest.tokenizer
    kept = () if tokenizer.kept_ids is None else (tokenizer.kept_ids,)
    return (graph.file, *graph.external_data, tokenizer.file, *kept)


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
