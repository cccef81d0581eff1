"""Writes a `.litertlm` for LiteRT-LM's embedding engine: all lengths of a LiteRT file, and a tokenizer.

The engine looks each token up in one file and gives the rows to another. Here the first one gives the token's
id as a number, and the other is the bundle's graph with its own table: two files with the same operators on
the same weights.
"""

import contextlib
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path

from embedding_export.packages.signatures import read_source, write_text_encoder, write_token_embedder

# What the engine puts around a text. `generic_model` has text alone.
_METADATA = """embedding_model_type {{ generic_model {{}} }}
bos_token {{ token_ids {{ ids: {bos} }} }}
eos_token {{ token_ids {{ ids: {eos} }} }}
max_input_length: {longest}
"""


@dataclass(frozen=True)
class Tokenizer:
    """A text's first and last id, and the tokenizer itself: a SentencePiece model, or a tokenizer.json."""

    bos_id: int
    eos_id: int
    sentencepiece: Path | None
    json: str


def write_litertlm(graph: Path, tokenizer: Tokenizer, out: Path) -> tuple[int, ...]:
    """Write the package of a LiteRT file; returns its lengths in tokens."""
    from litert_lm_builder.litertlm_builder import LitertLmFileBuilder, TfLiteModelType

    source = read_source(graph)
    lengths = tuple(source.subgraphs)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        folder = Path(scratch)
        embedder, encoder, metadata = (folder / name for name in ("embedder", "encoder", "metadata"))
        with (folder / "weights").open("w+b") as weights:
            write_token_embedder(embedder, weights)
        write_text_encoder(source, encoder, lengths)
        text = _METADATA.format(bos=tokenizer.bos_id, eos=tokenizer.eos_id, longest=lengths[-1])
        metadata.write_text(text, encoding="utf-8")
        builder = LitertLmFileBuilder()
        builder.add_embedding_metadata(str(metadata))
        if tokenizer.sentencepiece is not None:
            builder.add_sentencepiece_tokenizer(str(tokenizer.sentencepiece))
        else:
            (folder / "tokenizer.json").write_text(tokenizer.json, encoding="utf-8")
            builder.add_hf_tokenizer(str(folder / "tokenizer.json"))
        builder.add_tflite_model(str(embedder), TfLiteModelType.EMBEDDER)
        builder.add_tflite_model(str(encoder), TfLiteModelType.TEXT_ENCODER)
        with out.open("wb") as file, contextlib.redirect_stdout(io.StringIO()):  # it prints what it adds
            builder.build(file)
    return lengths
