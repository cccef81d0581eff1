"""One LiteRT graph, ready to run. Knows token ids and arrays, nothing of texts, prompts or dimensions.

A graph has a signature for each bucket, a length that its input has: int32 `tokens` [1, S], padded on the
right, from which it derives the mask. One text at a time, so a vector cannot depend on its batch.
"""

import threading
import traceback
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.engines import Ids, engine_module, first_line
from embedding_runtime.errors import EngineError, InputError
from embedding_runtime.litert_chatter import quiet, quiet_exit
from embedding_runtime.vectors import Floats

OUTPUT = "sentence_embedding"
# Packed weights without a file. With no name at all every signature would pack weights of its own.
IN_MEMORY = ":memory"


@dataclass(frozen=True)
class _Bucket:
    """One signature by name and index, and the buffers it reads and writes."""

    name: str
    index: int
    tokens: Any
    vector: Any


@dataclass
class _Held:
    """All that the engine gave; `drop` lets go of it."""

    model: Any
    buckets: Mapping[int, _Bucket]
    dim: int

    def drop(self) -> None:
        with quiet():
            self.buckets = {}
            self.model = None


class LitertSession:
    """Runs one graph on the CPU. `run` may be called from several threads at once; they take turns.

    Attributes:
        buckets: the lengths there are, ascending.
        signatures: their names in the file.
        pad_id: the id that pads texts, and may not stand in one.
    """

    def __init__(self, path: Path, threads: int, pad_id: int, weights: Path | None = None) -> None:
        """Open a graph.

        Args:
            weights: XNNPACK's file of packed weights. It is taken as it is where it exists, whatever it
                holds (see `device_cache`), and written where it does not; None keeps them in memory.

        Raises:
            EngineError: ai-edge-litert is missing, or does not load the graph.
        """
        self.pad_id = pad_id
        self._lock = threading.Lock()
        self._held = _opened(path, threads, str(weights) if weights else IN_MEMORY)
        self.buckets = tuple(self._held.buckets)
        self.signatures = {size: bucket.name for size, bucket in self._held.buckets.items()}
        weakref.finalize(self, self._held.drop)

    def run(self, ids: Ids, mask: Ids, outputs: tuple[str, ...]) -> list[Floats]:
        """The sentence embeddings (B, D) for ids and mask, int64 of shape (B, S), right-padded.

        Raises:
            InputError: another output is asked for, or ids that the graph cannot take.
            EngineError: the engine failed.
        """
        if outputs != (OUTPUT,):
            raise InputError(f"A LiteRT graph gives {OUTPUT!r} only; {list(outputs)} was asked for.")
        rows = [row[:length].astype(np.int32) for row, length in zip(ids, mask.sum(axis=1), strict=True)]
        return [np.stack([self._vector(row) for row in rows])]

    def check_ids(self, ids: NDArray[np.int32]) -> None:
        """Refuse ids (S,) with padding among them, or more than the largest bucket holds.

        Raises:
            InputError: the message wants a subject.
        """
        if len(ids) > self.buckets[-1]:
            raise InputError(f"has {len(ids)} tokens; the graph's largest bucket holds {self.buckets[-1]}.")
        if self.pad_id in ids:
            raise InputError(
                f"holds the control token with id {self.pad_id}, which a LiteRT graph takes for padding. "
                "Take it out, leave out allow_special, or load an ONNX graph with format='onnx'."
            )

    def bucket(self, length: int) -> int:
        """The smallest bucket that holds `length` tokens, which are at most what the largest holds."""
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
            return self._run(self._held.buckets[length], tokens)

    def _run(self, bucket: _Bucket, tokens: NDArray[np.int32]) -> Floats:
        try:
            bucket.tokens.write(tokens)
            self._held.model.run_by_index(bucket.index, [bucket.tokens], [bucket.vector])
            found: Floats = bucket.vector.read(self._held.dim, np.float32)
        except Exception as e:  # the engine's own errors have no common base
            raise EngineError(
                f"ai-edge-litert failed on {tokens.shape[1]} tokens ({first_line(e)}). Check how much memory "
                "is free; shorter texts need less."
            ) from e
        return found


def _opened(path: Path, threads: int, weights: str) -> _Held:
    engine = engine_module("litert")
    with quiet():
        try:
            held = _compiled(path, threads, weights)
        except Exception as e:
            # What was made of the engine before it failed goes here, not where the error is dropped.
            traceback.clear_frames(e.__traceback__)
            raise EngineError(
                f"ai-edge-litert {engine.__version__} does not load {path} ({first_line(e)}). Export the "
                "bundle again, or install another version of ai-edge-litert."
            ) from e
    quiet_exit()
    return held


def _compiled(path: Path, threads: int, weights: str) -> _Held:
    from ai_edge_litert.compiled_model import CompiledModel, CpuOptions, HardwareAccelerator, Options

    cpu = CpuOptions(num_threads=threads, xnnpack_weight_cache_path=weights)
    options = Options(hardware_accelerators=HardwareAccelerator.CPU, cpu_options=cpu)
    model = CompiledModel.from_file(str(path), options=options)
    found = sorted((_length(model, name), name) for name in model.get_signature_list())
    buckets = {length: _bucket(model, name) for length, name in found}
    shortest, name = found[0]
    # The engine sets more of itself up at the first write, and tells that too.
    buckets[shortest].tokens.write(np.zeros((1, shortest), dtype=np.int32))
    (vector,) = model.get_output_tensor_details(name).values()
    return _Held(model, buckets, int(vector["shape"][-1]))


def _length(model: Any, signature: str) -> int:
    """The number of tokens it takes; its name is no matter (published files have names of their own)."""
    (tokens,) = model.get_input_tensor_details(signature).values()
    return int(tokens["shape"][-1])


def _bucket(model: Any, name: str) -> _Bucket:
    index = model.get_signature_index(name)
    (tokens,), (vector,) = model.create_input_buffers(index), model.create_output_buffers(index)
    return _Bucket(name, index, tokens, vector)
