"""The pickled form of an Embedder: where its bundle lies, and how it was opened."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from embedding_runtime.errors import BundleError
from embedding_runtime.opening.open_bundle import Choice


@dataclass(frozen=True)
class Pickled:
    """The values that another process needs to open the same graph in the same way; `settings` are set
    afterwards."""

    path: str
    choice: Choice
    variant_id: str
    settings: dict[str, Any]

    @classmethod
    def of(cls, path: str, choice: Choice, embedder: Any) -> "Pickled":
        """The pickled form of an open Embedder; the path is absolute, because another process may run in
        another folder."""
        names = ("default_prompt_name", "similarity_fn_name", "overflow", "truncate_dim", "max_seq_length")
        settings = {name: getattr(embedder, name) for name in names}
        graph = embedder.graph
        same = replace(choice, format=graph.format, precision=graph.precision)
        prompts = dict(embedder.prompts)
        return cls(path, same, graph.variant_id, {"prompts": prompts, **settings})


def reopen(kind: type[Any], pickled: Pickled) -> Any:
    """Open the bundle again.

    Raises:
        BundleError: it is missing, or is another one now.
    """
    if not Path(pickled.path).is_dir():
        raise BundleError(
            f"{pickled.path} is not a folder on this machine. An Embedder is pickled as the path of its "
            "bundle: copy the bundle to that path on every machine, or open it there with Embedder(PATH)."
        )
    embedder = kind(pickled.path, **asdict(pickled.choice))
    if embedder.graph.variant_id != pickled.variant_id:
        raise BundleError(
            f"{pickled.path} has another {embedder.graph.key} than the Embedder that was pickled. Give both "
            "processes the same bundle."
        )
    for name, value in pickled.settings.items():
        setattr(embedder, name, value)
    return embedder
