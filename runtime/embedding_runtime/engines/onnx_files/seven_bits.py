"""Rounds a graph's activations to 7 bits, for CPUs on which 8 cost speed.

x86 without VNNI adds two u8 x s8 products in 16 bits. With activations of 8 bits such a sum may saturate, and
the kernels that cannot are slower; with 7 bits it is 2 * 127 * 127 at most, and no sum saturates. The
exporter keeps what an activation is rounded by in constants of the names below, so nothing else changes.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.engines.onnx_files.tables import (
    GRAPH_INITIALIZER,
    as_bytes,
    fields_of,
    graph_edited,
    tensor_name,
    tensor_written,
    written,
)
from embedding_runtime.errors import BundleError

# An activation stands for (code - zero) * scale, with scale = largest magnitude * step.
STEP, STEP_BELOW = "constant_activation_step", "constant_activation_step_below"
ACTIVATION_ZERO = "constant_activation_zero"
# The zero point of keys: its type is that of their codes. Of unsigned ones no sum saturates either, and
# scores stay what they are.
KEY_ZERO = "constant_key_zero"
_LEVELS = 63
_SEVEN_BITS: dict[str, NDArray[np.generic]] = {
    STEP: np.array(1 / _LEVELS, np.float32),
    STEP_BELOW: np.array(-1 / _LEVELS, np.float32),
    ACTIVATION_ZERO: np.array(_LEVELS + 1, np.uint8),
    KEY_ZERO: np.array(128, np.uint8),
}


def with_seven_bits(model: Path | bytes) -> Path | bytes:
    """An ONNX file, or its bytes, with activations of 7 bits. What has them already stays what it is.

    Raises:
        BundleError: not an ONNX file, or one of another program or an older version, which does not name what
            its activations are rounded by.
    """
    whole = model.read_bytes() if isinstance(model, Path) else model
    if missing := [name for name in _SEVEN_BITS if name.encode() not in whole]:
        raise BundleError(
            f"The graph cannot have activations of 7 bits: it has no constant {missing[0]}. Export the "
            "bundle again."
        )
    try:
        edited = graph_edited(whole, _edited)
    except ValueError as e:
        raise BundleError(f"The graph is not an ONNX file ({e}). Export the bundle again.") from e
    return model if edited == whole else edited


def _edited(graph: bytes) -> bytes:
    return b"".join(
        written(number, wire, _constant(as_bytes(value)) if number == GRAPH_INITIALIZER else value)
        for number, wire, value in fields_of(graph)
    )


def _constant(tensor: bytes) -> bytes:
    name = tensor_name(tensor)
    return tensor_written(name, _SEVEN_BITS[name]) if name in _SEVEN_BITS else tensor
