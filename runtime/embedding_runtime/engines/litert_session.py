"""One LiteRT graph, ready to run on token ids.

A graph has a signature for each bucket, which is a fixed input length: int32 `tokens` [1, S], padded on the
right. The graph derives the mask from them. It runs one text at a time, so a vector cannot depend on its
batch.
"""

import threading
import weakref
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.engines.litert_model import open_model
from embedding_runtime.engines.registry import Ids, first_line
from embedding_runtime.errors import EngineError, InputError
from embedding_runtime.vectors import Floats

OUTPUT = "sentence_embedding"


class LitertSession:
    """Runs one graph on the CPU. `run` may be called from several threads at once; they take turns.

    Attributes:
        buckets: the available lengths, ascending.
        signatures: their names in the file.
        pad_id: the id that pads texts, and may not stand in one.
    """

    def __init__(self, path: Path, threads: int, pad_id: int, weights: Path | None = None) -> None:
        """Open a graph.

        Args:
            weights: XNNPACK's file of packed weights. An existing file is used as it is, whatever it holds
                (see `device_cache`); a missing one is written; None keeps the weights in memory. With a file,
                each bucket is opened when the first text needs it, else all of them now.

        Raises:
            EngineError: ai-edge-litert is missing, or does not load the graph.
        """
        self.pad_id = pad_id
        self._lock = threading.Lock()
        self._model = open_model(path, threads, weights)
        self.signatures = self._model.names
        self.buckets = tuple(self.signatures)
        weakref.finalize(self, self._model.drop)

    def run(self, ids: Ids, mask: Ids, outputs: tuple[str, ...]) -> list[Floats]:
        """The sentence embeddings (B, D) for ids and mask, int64 of shape (B, S), right-padded.

        Raises:
            InputError: another output is requested, or the graph cannot take the ids.
            EngineError: the engine failed.
        """
        if outputs != (OUTPUT,):
            raise InputError(f"A LiteRT graph gives {OUTPUT!r} only; {list(outputs)} was requested.")
        rows = [row[:length].astype(np.int32) for row, length in zip(ids, mask.sum(axis=1), strict=True)]
        return [np.stack([self._vector(row) for row in rows])]

    def check_ids(self, ids: NDArray[np.int32]) -> None:
        """Refuse ids (S,) with padding among them, or more than the largest bucket holds.

        Raises:
            InputError: the caller prefixes the message with its subject.
        """
        if len(ids) > self.buckets[-1]:
            raise InputError(f"has {len(ids)} tokens; the graph's largest bucket holds {self.buckets[-1]}.")
        if self.pad_id in ids:
            raise InputError(
                f"holds the control token with id {self.pad_id}, which a LiteRT graph takes for padding. "
                "Take it out, leave out allow_special, or load an ONNX graph with format='onnx'."
            )

    def bucket(self, length: int) -> int:
        """The smallest bucket that holds `length` tokens; `length` is at most the largest bucket."""
        return next(size for size in self.buckets if length <= size)

    def _vector(self, ids: NDArray[np.int32]) -> Floats:
        try:
            self.check_ids(ids)
        except InputError as e:
            raise InputError(f"A text {e}") from e
        length = self.bucket(len(ids))
        tokens = np.full((1, length), self.pad_id, dtype=np.int32)
        tokens[0, : len(ids)] = ids
        with self._lock:
            signature = self._model.signature(length)
            try:
                return signature.run(tokens)
            except Exception as e:  # the engine's own errors have no common base
                raise EngineError(
                    f"ai-edge-litert failed on {length} tokens ({first_line(e)}). Check how much memory is "
                    "free; shorter texts need less."
                ) from e
