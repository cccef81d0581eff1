"""Token sequences as the arrays that engines take."""

import numpy as np
from numpy.typing import NDArray


def pad(sequences: list[NDArray[np.int32]], pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Right-padded ids and mask, int64 (B, S)."""
    shape = (len(sequences), max(len(s) for s in sequences))
    ids, mask = np.full(shape, pad_id, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return ids, mask
