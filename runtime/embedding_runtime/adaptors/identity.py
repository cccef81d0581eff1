"""The settings that a stored vector depends on, as plain values, for the cache keys of other libraries."""

from typing import Any

from embedding_runtime.embedder import Embedder
from embedding_runtime.encoding import prompts as prompting
from embedding_runtime.encoding.prompts import PromptChoice


def identity(embedder: Embedder, allow_special: bool) -> dict[str, Any]:
    """Names and values that an Embedder's vectors depend on, as they are now.

    Vectors of equal identity may be mixed; those of one `space_id` and `dimension` may be compared.
    """
    return {
        "space_id": embedder.manifest.space_id,
        "graph": embedder.graph.key,
        "variant_id": embedder.graph.variant_id,
        "dimension": embedder.get_embedding_dimension(),
        "precision": embedder.graph.precision,
        "max_seq_length": embedder.max_seq_length,
        "overflow": embedder.overflow,
        "allow_special": allow_special,
        "query_prompt": _prompt(embedder, prompting.QUERY_NAMES),
        "document_prompt": _prompt(embedder, prompting.DOCUMENT_NAMES),
    }


def _prompt(embedder: Embedder, names: tuple[str, ...]) -> str:
    return prompting.resolve(
        PromptChoice(names=names), embedder.prompts, embedder.manifest.aliases, embedder.default_prompt_name
    )
