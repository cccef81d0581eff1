"""EmbeddingGemma 2's text encoder, alone or beside the towers for images and sound, which are left out."""

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
