"""Finds the architecture of a checkpoint; all other modules ask here for a model's tensors and steps.

To add an architecture, write a folder that offers what `Architecture` lists, and add a line to
`ARCHITECTURES`.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from embedding_export.architectures import embedding_gemma2, gemma3
from embedding_export.architectures.interface.figures import Figures, Repairs
from embedding_export.architectures.interface.ops import DenseStage, Ops, V
from embedding_export.architectures.interface.tensors import Part, Residual, Specs, TensorSpec
from embedding_export.errors import CheckpointError
from embedding_export.files.json_files import Fields, read_fields


class Architecture(Protocol):
    """The interface of an architecture's folder."""

    def canonical_name(self, name: str) -> str:
        """The canonical name of a tensor, by its name in the files."""

    def left_out(self, name: str) -> str | None:
        """Why the encoder does not use a tensor of the files, by canonical name; None if it should."""

    def read_figures(self, fields: Fields, sliding_window: int | None = None) -> tuple[Figures, Repairs]:
        """The figures in `config.json`, whose `model_type` is this architecture's.

        Raises:
            CheckpointError: a setting that the encoder does not compute.
        """

    def tensor_specs(self, figures: Figures) -> Mapping[str, TensorSpec]:
        """Every tensor of the encoder by canonical name, in the order of computation within a layer."""

    def residuals(self, figures: Figures) -> tuple[Residual, ...]:
        """The names that `encode` gives to sums, in the order of computation."""

    def part_of(self, name: str) -> Part | None:
        """The part that a stored tensor belongs to, by its name in a graph."""

    def encode(
        self, ops: Ops[V], figures: Figures, dense: Sequence[DenseStage], normalize: bool
    ) -> tuple[V, V]:
        """Last hidden state [B, S, output_size] and sentence embedding [B, dim]."""


# By `model_type` of config.json.
ARCHITECTURES: Mapping[str, Architecture] = {
    "gemma3_text": gemma3,
    "embedding_gemma2": embedding_gemma2,
    "embedding_gemma2_text": embedding_gemma2,
}


def read_figures(path: Path, sliding_window: int | None = None) -> tuple[Figures, Repairs]:
    """The figures in a `config.json`; `sliding_window` replaces the file's value.

    Raises:
        CheckpointError: an unknown architecture, or a setting that its encoder does not implement.
    """
    fields = read_fields(path)
    model_type = fields.values.get("model_type")
    architecture = ARCHITECTURES.get(model_type) if isinstance(model_type, str) else None
    if architecture is None:
        inner = " (a text model wrapped for images)" if "text_config" in fields.values else ""
        raise CheckpointError(
            f"{fields.file}: model_type is {model_type!r}{inner}; expected one of "
            f"{', '.join(map(repr, ARCHITECTURES))}: EmbeddingGemma (google/embeddinggemma-300m) and "
            "EmbeddingGemma 2 (google/embeddinggemma-2), or a model fine-tuned from one of them. Other Gemma "
            "models make no sentence embeddings, and are not supported."
        )
    return architecture.read_figures(fields, sliding_window)


def architecture_of(figures: Figures) -> Architecture:
    """The architecture that `figures` are of."""
    return ARCHITECTURES[figures.model_type]


def residuals(figures: Figures) -> tuple[Residual, ...]:
    """The names that `encode` gives to sums, in the order of computation."""
    return architecture_of(figures).residuals(figures)


@lru_cache(maxsize=8)
def tensor_specs(figures: Figures) -> Specs:
    """Every tensor of the encoder by canonical name; callers must not change it."""
    return architecture_of(figures).tensor_specs(figures)


def encode(ops: Ops[V], figures: Figures, dense: Sequence[DenseStage], normalize: bool) -> tuple[V, V]:
    """Last hidden state [B, S, output_size] and sentence embedding [B, dim]."""
    return architecture_of(figures).encode(ops, figures, dense, normalize)
