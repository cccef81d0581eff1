"""Gemma 3's text encoder with bidirectional attention: EmbeddingGemma."""

from embedding_export.architectures.gemma3.config import read_figures
from embedding_export.architectures.gemma3.encoder import encode
from embedding_export.architectures.gemma3.tensors import (
    canonical_name,
    left_out,
    part_of,
    residuals,
    tensor_specs,
)

__all__ = ["canonical_name", "encode", "left_out", "part_of", "read_figures", "residuals", "tensor_specs"]
