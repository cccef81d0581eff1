"""Tables of the rotary position embedding. Both formats store them as constants if they are short."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def rope_tables(theta: float, head_dim: int, positions: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Cosines and sines, float32 [positions, head_dim / 2], of position * theta^(-2i / head_dim) (RoFormer,
    eq. 15).

    The angles are formed in float32, as the reference does.
    """
    frequencies = rope_frequencies(theta, head_dim)
    angles = np.arange(positions, dtype=np.float32)[:, None] * frequencies[None, :]
    return np.cos(angles), np.sin(angles)


def rope_frequencies(theta: float, head_dim: int) -> NDArray[np.float32]:
    """theta^(-2i / head_dim), float32 [head_dim / 2]."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    powers = np.power(np.float32(theta), exponents, dtype=np.float32)
    return np.asarray(np.float32(1.0) / powers, np.float32)
