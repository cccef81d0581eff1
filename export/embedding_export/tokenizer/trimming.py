"""Cuts a checkpoint down to an alphabet: fewer rows in the embedding table, everything else unchanged.

Rows follow the tokenizer's new numbering; `alphabet` says which entries stay.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_export.architectures.interface.tensors import TABLE
from embedding_export.checkpoint.checkpoint import Checkpoint
from embedding_export.files.tensors import Tensor
from embedding_export.tokenizer.alphabet import Trimmed, trim

TOKENIZER_CONFIG, SENTENCEPIECE = "tokenizer_config.json", "tokenizer.model"


@dataclass(frozen=True, eq=False)
class TensorRows(Tensor):
    """Some rows of another tensor: row `i` is row `kept_ids[i]` of `whole`."""

    whole: Tensor
    kept_ids: NDArray[np.int64]

    @classmethod
    def of(cls, whole: Tensor, kept_ids: NDArray[np.int64]) -> "TensorRows":
        """The rows `kept_ids` of `whole`, read when needed."""
        shape = (len(kept_ids), *whole.shape[1:])
        return cls(whole.name, shape, whole.dtype, whole.file, whole.start, whole.mapping, whole, kept_ids)

    def release(self) -> None:
        """Let the system drop the whole tensor's pages from memory."""
        self.whole.release()

    def _bits(self, start: int, stop: int) -> NDArray[Any]:
        bits = self.whole._bits(0, self.whole.shape[0]).reshape(self.whole.shape[0], -1)
        return bits[self.kept_ids[start:stop]].reshape(-1)


def trim_vocabulary(checkpoint: Checkpoint, alphabet: str, scratch: Path) -> tuple[Checkpoint, Trimmed]:
    """The checkpoint with only the entries that `alphabet` (and the prompts) can reach.

    The trimmed tokenizer_config.json is written into `scratch`; tokenizer.model, which is not trimmed, is
    removed from the client files.

    Raises:
        ExportError: an unknown alphabet, or one that does not keep ids exact.
        CheckpointError: the tokenizer is of a kind that cannot be trimmed.
    """
    cut = trim(checkpoint.tokenizer, alphabet, required="".join(checkpoint.prompts.values()))
    table = TensorRows.of(checkpoint.tensors[TABLE], cut.kept_ids)
    smaller = replace(
        checkpoint,
        config=replace(checkpoint.config, vocab_size=len(cut.kept_ids)),
        tensors={**checkpoint.tensors, TABLE: table},
        tokenizer=replace(cut.tokenizer, without_row=checkpoint.tokenizer.without_row),
        client_files=tuple(
            _client_file(f, cut, scratch) for f in checkpoint.client_files if f.name != SENTENCEPIECE
        ),
        source=replace(checkpoint.source, notes=(*checkpoint.source.notes, cut.summary())),
    )
    return smaller, cut


def _client_file(source: Path, cut: Trimmed, scratch: Path) -> Path:
    if source.name != TOKENIZER_CONFIG:
        return source
    config = cut.renumbered(json.loads(source.read_text(encoding="utf-8")))
    path = scratch / TOKENIZER_CONFIG
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
