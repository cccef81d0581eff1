"""Writes one LiteRT (TFLite) file of the encoder: a signature per bucket, all over one set of weights.

`bundle.graphs` places the file and records it in the manifest.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from embedding_export.architectures.registry import encode, tensor_specs
from embedding_export.errors import ExportError
from embedding_export.litert.file import LitertFile
from embedding_export.litert.ops import Lengths, LitertOps, Names
from embedding_export.litert.storage import LitertStorage
from embedding_export.weights.encoder import Encoder
from embedding_export.weights.precisions import LitertFormat, LitertRow

NAMES = Names("embed_{}", "tokens", "sentence_embedding")
# What the converter of the published single-length files calls a signature, its input and its output.
PUBLISHED_NAMES = Names("serving_default", "args_0", "output_0")
DESCRIPTION = "EmbeddingGemma encoder, written by embedding-edge"


def check_buckets(buckets: Sequence[int], max_seq_length: int) -> tuple[int, ...]:
    """Buckets in ascending order, each once; those beyond the model's length are replaced by that length.

    Raises:
        ExportError: none, or one below 2 (`<bos>` and `<eos>` must fit).
    """
    if wrong := [b for b in buckets if b < 2]:
        raise ExportError(f"--buckets names {wrong[0]}; a bucket has at least 2 tokens.")
    lengths = sorted({min(b, max_seq_length) for b in buckets})
    if not lengths:
        raise ExportError("--buckets names no length.")
    return tuple(lengths)


def write_litert(
    encoder: Encoder,
    path: Path,
    row: LitertRow,
    lengths: Sequence[Lengths],
    progress: Callable[[int], None],
    names: Names = NAMES,
) -> None:
    """Write `path` with a signature for each of `lengths`.

    Each takes token ids, int32 [1, S], padded on the right, and gives the sentence embedding, float32
    [1, dim].

    Raises:
        ExportError: the weights do not fit one file.
    """
    config = encoder.config
    specs = tensor_specs(config)

    def formats(name: str) -> LitertFormat:
        return row.format(name, specs)

    matrices = encoder.matrices() if row.calibrated else None
    scratch = path.with_name(path.name + ".weights")
    try:
        with scratch.open("w+b") as data:
            file = LitertFile(data, progress)
            storage = LitertStorage(file, encoder.weights, formats, matrices)
            for length in lengths:
                signature = file.signature(names.signature.format(length.bucket))
                ops = LitertOps(signature, config, storage, length, names)
                ops.finish(encode(ops, config, encoder.weights.dense, encoder.normalize)[1])
            file.write(path, DESCRIPTION)
    finally:
        scratch.unlink(missing_ok=True)
