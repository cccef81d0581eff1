"""Methods and attributes that libraries written for sentence-transformers use, other than those that encode.

Evaluators, MTEB and text splitters use them; `DIFFERENCES.md` lists what is missing.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from embedding_runtime.bundle import Manifest
from embedding_runtime.encoding.pipeline import Encoder
from embedding_runtime.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class ModelCardData:
    """The names of a model card, which libraries read. Metrics from evaluators are discarded."""

    model_name: str | None
    base_model: str | None
    base_model_revision: str | None
    language: tuple[str, ...] = ()

    def set_evaluation_metrics(self, evaluator: Any, metrics: Any, epoch: int = 0, step: int = 0) -> None:
        """Accept metrics and discard them; the evaluator returns them to its caller."""


class ReferenceNames:
    """The names that only other libraries use; an Embedder has the rest."""

    manifest: Manifest
    truncate_dim: int | None
    _encoder: Encoder

    @property
    def device(self) -> str:
        """Always "cpu"."""
        return "cpu"

    @property
    def tokenizer(self) -> Tokenizer:
        """The bundle's tokenizer: one text at a time, `<bos>` and `<eos>` included; see `Tokenizer`."""
        return self._encoder.opened.tokenizer

    @property
    def model_card_data(self) -> ModelCardData:
        """Names of the checkpoint that the bundle was made from."""
        source = self.manifest.source
        return ModelCardData(source.name, source.name, source.revision)

    def get_max_seq_length(self) -> int:
        """The older name of `max_seq_length`."""
        return self._encoder.max_length

    def get_embedding_dimension(self) -> int:
        """The number of components of a vector, after `truncate_dim`."""
        return self.truncate_dim or self.manifest.embedding_dim

    def get_sentence_embedding_dimension(self) -> int:
        """The older name of `get_embedding_dimension`."""
        warnings.warn(
            "get_sentence_embedding_dimension is the older name of get_embedding_dimension.",
            FutureWarning,
            stacklevel=2,
        )
        return self.get_embedding_dimension()

    def evaluate(self, evaluator: Callable[..., Any], output_path: str | None = None) -> Any:
        """The result of a sentence-transformers evaluator; `output_path` is the folder it writes to."""
        return evaluator(self, output_path)

    def check_golden(self) -> float:
        """Largest absolute difference to the vectors stored at export.

        Raises:
            BundleError: it exceeds the tolerance of this kind of CPU.
        """
        return self._encoder.opened.check_golden()
