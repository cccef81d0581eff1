"""Puts windows of results together in the form that the caller asked for."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.encoding.options import Options
from embedding_runtime.encoding.stream import Window
from embedding_runtime.encoding.tensors import as_tensors
from embedding_runtime.quantization import quantize_embeddings
from embedding_runtime.vectors import Floats

Features = dict[str, NDArray[Any]]
Result = NDArray[Any] | list[NDArray[Any]] | Features | list[Features]


def collect(windows: Iterable[Window], total: int | None, options: Options, single: bool) -> Result:
    """All results: an array (N, dim) or, as the options ask, a list with one entry per text.

    For no texts it is an empty array of shape (0,), or an empty list; if `single`, the one text's result.
    `total` is the number of texts if known.
    """
    if options.convert_to_tensor:
        tensors: Result = as_tensors(
            _collect(windows, total, replace(options, convert_to_numpy=True), single)
        )
        return tensors
    return _collect(windows, total, options, single)


def _collect(windows: Iterable[Window], total: int | None, options: Options, single: bool) -> Result:
    if options.output_value == "token_embeddings":
        hidden = [hidden for window in windows for hidden in window.hidden]
        return hidden[0] if single else hidden
    if options.output_value is None:
        features = [features for window in windows for features in _features(window)]
        return features[0] if single else features
    vectors = _stack(windows, total)
    if vectors is None:
        return np.array([]) if options.convert_to_numpy else []
    result = stored(vectors, options)
    if single:
        first: NDArray[Any] = result[0]
        return first
    return result if options.convert_to_numpy else list(result)


def stored(vectors: Floats, options: Options) -> NDArray[Any]:
    """Vectors (N, dim) in the options' precision."""
    if options.precision in (None, "float32"):
        return vectors
    return quantize_embeddings(vectors, options.precision)


def _stack(windows: Iterable[Window], total: int | None) -> Floats | None:
    """One array, None for no texts. If their number is known, the array is filled in place, so that memory
    holds it once."""
    if total is None:
        parts = [window.vectors for window in windows]
        return np.concatenate(parts) if parts else None
    vectors: Floats | None = None
    for window in windows:
        if vectors is None:
            vectors = np.empty((total, window.vectors.shape[1]), dtype=np.float32)
        vectors[window.start : window.start + len(window.vectors)] = window.vectors
    return vectors


def _features(window: Window) -> Iterable[Features]:
    for ids, hidden, vector in zip(window.ids, window.hidden, window.vectors, strict=True):
        yield {
            "input_ids": ids.astype(np.int64),
            "attention_mask": np.ones(len(ids), dtype=np.int64),
            "token_embeddings": hidden,
            "sentence_embedding": vector,
        }
