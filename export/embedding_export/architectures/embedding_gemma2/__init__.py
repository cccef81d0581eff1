"""EmbeddingGemma 2's text encoder, with or without the image and audio towers, which are left out."""

from embedding_export.architectures.embedding_gemma2.config import read_figures
from embedding_export.architectures.embedding_gemma2.encoder import encode
from embedding_export.architectures.embedding_gemma2.tensors import (
    canonical_name,
    left_out,
    part_of,
    residuals,
    tensor_specs,
)

__all__ = ["canonical_name", "encode", "left_out", "part_of", "read_figures", "residuals", "tensor_specs"]
