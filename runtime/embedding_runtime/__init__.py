"""Bundle → vectors, on the device: uses numpy and one engine, never torch.

Stamps are imported when they are first asked for: few programs need them, and all wait for an import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from embedding_runtime.bundle import Manifest, load_manifest
from embedding_runtime.embedder import Embedder
from embedding_runtime.errors import (
    BundleError,
    EmbeddingError,
    EmbeddingWarning,
    EngineError,
    InputError,
    InputTypeError,
    OverflowWarning,
    ParityWarning,
)
from embedding_runtime.quantization import quantization_ranges, quantize_embeddings
from embedding_runtime.retrieval import semantic_search
from embedding_runtime.similarity import (
    SimilarityFunction,
    cos_sim,
    dot_score,
    euclidean_sim,
    manhattan_sim,
    pairwise_cos_sim,
    pairwise_dot_score,
    pairwise_euclidean_sim,
    pairwise_manhattan_sim,
)

if TYPE_CHECKING:
    from embedding_runtime.stamps.check import check_space
    from embedding_runtime.stamps.files import read_stamp, write_stamp
    from embedding_runtime.stamps.stamp import Stamp, make_stamp

__all__ = [
    "BundleError",
    "Embedder",
    "EmbeddingError",
    "EmbeddingWarning",
    "EngineError",
    "InputError",
    "InputTypeError",
    "Manifest",
    "OverflowWarning",
    "ParityWarning",
    "SimilarityFunction",
    "Stamp",
    "check_space",
    "cos_sim",
    "dot_score",
    "euclidean_sim",
    "load_manifest",
    "make_stamp",
    "manhattan_sim",
    "pairwise_cos_sim",
    "pairwise_dot_score",
    "pairwise_euclidean_sim",
    "pairwise_manhattan_sim",
    "quantization_ranges",
    "quantize_embeddings",
    "read_stamp",
    "semantic_search",
    "write_stamp",
]

_STAMPS = {
    "Stamp": "stamp",
    "check_space": "check",
    "make_stamp": "stamp",
    "read_stamp": "files",
    "write_stamp": "files",
}


def __getattr__(name: str) -> Any:
    if name not in _STAMPS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"embedding_runtime.stamps.{_STAMPS[name]}"), name)
