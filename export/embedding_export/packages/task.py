"""Writes a `.task` for MediaPipe's TextEmbedder: one length of a LiteRT file, and its SentencePiece model."""

import struct
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from embedding_export.litert.file import ALIGNMENT
from embedding_export.packages.signatures import read_source, write_length

# MediaPipe runs every text at this one length, and refuses longer ones. Longer lengths cost more for each.
LONGEST = 512
# MediaPipe looks for any name that ends in .tflite, and for this one.
GRAPH, TOKENIZER = "embedding_gemma.tflite", "sentencepiece.model"
# The size of a local header in a zip file without its name, and the field that zipalign pads it with.
_HEADER, _PADDING_FIELD = 30, 0xD935


def task_length(lengths: Sequence[int]) -> int:
    """The length that a package takes: the largest of at most 512 tokens, or the smallest there is."""
    return max((n for n in lengths if n <= LONGEST), default=min(lengths))


def write_task(graph: Path, tokenizer: Path, out: Path) -> int:
    """Write the package of a LiteRT file; returns its length in tokens."""
    source = read_source(graph)
    length = task_length(tuple(source.subgraphs))
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        one = Path(scratch) / GRAPH
        write_length(source, one, length)
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
            _add(archive, one, GRAPH)
            _add(archive, tokenizer, TOKENIZER)
    return length


def _add(archive: zipfile.ZipFile, path: Path, name: str) -> None:
    """Add a file uncompressed, its first byte at a multiple of the weights' alignment: clients map it."""
    info = zipfile.ZipInfo(name)  # dated 1980, so that equal packages are equal byte for byte
    assert archive.fp is not None
    before = archive.fp.tell() + _HEADER + len(name) + 4
    padding = -before % ALIGNMENT
    info.extra = struct.pack("<HH", _PADDING_FIELD, padding) + bytes(padding)
    info.file_size = path.stat().st_size
    with path.open("rb") as file, archive.open(info, "w") as into:
        while block := file.read(1 << 20):
            into.write(block)
