"""Checks whether queries of a bundle may be compared with stored vectors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedding_runtime.bundle import Manifest, load_manifest
from embedding_runtime.embedder import Embedder
from embedding_runtime.errors import InputError, InputTypeError
from embedding_runtime.stamps.files import read_stamp
from embedding_runtime.stamps.stamp import Stamp


def check_space(index: str | Path | Mapping[str, Any] | Stamp, bundle: str | Path | Embedder) -> Stamp:
    """Refuse to search vectors with a bundle of another space, or with an open Embedder of another dim.

    Args:
        index: a file (or folder) of vectors that has a stamp, or the stamp itself as parsed JSON: from a
            store's own metadata, or the service's `Embedding-Stamp` header.
        bundle: a folder, or an `Embedder`.

    Returns:
        The stamp of the vectors.

    Raises:
        InputError: another space or dim, or no stamp; the message says what was found, what was expected,
            what to do.
        InputTypeError: `index` is none of these.
        BundleError: there is no such bundle.
    """
    if not isinstance(index, str | Path | Mapping | Stamp):
        raise InputTypeError(f"index is a {type(index).__name__}; expected a path, a mapping or a Stamp.")
    where = str(index) if isinstance(index, str | Path) else "The index"
    if isinstance(index, str | Path):
        stamp = read_stamp(index)
    else:
        stamp = index if isinstance(index, Stamp) else Stamp.from_mapping(index, where)
    manifest = bundle.manifest if isinstance(bundle, Embedder) else load_manifest(Path(bundle))
    _check(stamp, manifest, where)
    if isinstance(bundle, Embedder) and bundle.get_embedding_dimension() != stamp.dim:
        raise InputError(
            f"{where} holds vectors of {stamp.dim} components, and this Embedder gives "
            f"{bundle.get_embedding_dimension()}. Open the bundle with truncate_dim={stamp.dim}."
        )
    return stamp


def _check(stamp: Stamp, manifest: Manifest, where: str) -> None:
    if stamp.space_id != manifest.space_id:
        raise InputError(
            f"{where} holds vectors of {stamp.model} (space {stamp.space_id[:12]}), and the bundle gives "
            f"those of {manifest.source.name} (space {manifest.space_id[:12]}). Scores between them mean "
            "nothing: open a bundle of the same checkpoint, or embed the documents again with this one."
        )
    if stamp.dim > manifest.embedding_dim:
        raise InputError(
            f"{where} says {stamp.dim} components, but this space has {manifest.embedding_dim}. The stamp is "
            "damaged: embed the texts again."
        )
