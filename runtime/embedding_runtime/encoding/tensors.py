"""Arrays as tensors if PyTorch is already loaded, for libraries written for sentence-transformers.

It imports nothing: a process that has no tensors runs without PyTorch.
"""

import sys
from typing import Any

import numpy as np


def torch_loaded() -> Any | None:
    """The module torch of this process; None if it has not been imported."""
    return sys.modules.get("torch")


def as_tensors(arrays: Any) -> Any:
    """An array, or arrays in lists and dicts, as CPU tensors of the same shape and dtype."""
    torch = torch_loaded()
    if torch is None:
        return arrays
    if isinstance(arrays, list):
        return [as_tensors(each) for each in arrays]
    if isinstance(arrays, dict):
        return {name: as_tensors(each) for name, each in arrays.items()}
    empty = not len(np.shape(arrays)) or not np.size(arrays)
    return torch.from_numpy(np.array(arrays, dtype=np.float32 if empty else None))


def like_inputs(scores: Any, *inputs: Any) -> Any:
    """Scores as a tensor if an input is one, else unchanged."""
    torch = torch_loaded()
    has_tensor = torch is not None and any(isinstance(each, torch.Tensor) for each in inputs)
    return as_tensors(scores) if has_tensor else scores
