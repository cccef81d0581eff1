"""The options of an export."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from embedding_export.weights.sample import BUILT_IN, CalibrationTexts
from embedding_runtime.bundle import Format, Precision

Existing = Literal["refuse", "replace", "extend"]
Package = Literal["task", "litertlm"]

# Each costs what its length costs, so a short text needs a short one. Multiples of 128 make local attention
# cheap in long ones. Those past a checkpoint's length are left out.
BUCKETS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


@dataclass(frozen=True)
class ExportOptions:
    """The graphs to write (each precision in every format that offers it), and how to treat an existing
    bundle.

    LiteRT files have a signature for each of `buckets`, or, if `litert_single` is set, one of that length,
    under the name of the published files. If `target_cosine` is set, it chooses the precision: the smallest
    composition of 4 and 8 bits that keeps this mean cosine to the float32 model, of at most `max_bytes`. What
    is rounded is rounded by `calibration`; `weights.sample.read_calibration` reads a file of one's own. Each
    LiteRT file is packed for vendors' clients in every kind of `packages`.
    """

    precisions: tuple[Precision, ...] = ("int8",)
    formats: tuple[Format, ...] = ("onnx",)
    buckets: tuple[int, ...] = BUCKETS
    litert_single: int | None = None
    existing: Existing = "refuse"
    dims: tuple[int, ...] | None = None
    client_files: bool = True
    alphabet: str | None = None
    keep_failed: Path | None = None
    target_cosine: float | None = None
    max_bytes: int | None = None
    calibration: CalibrationTexts = BUILT_IN
    packages: tuple[Package, ...] = ()
