"""Builds the runtime's compact table from tokenizer.json, and compares it with the `tokenizers` library.

runtime/TOKENIZER_TABLE.md describes the layout.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedding_export.errors import ExportError
from embedding_export.files.tokenizer_file import TokenizerFile
from embedding_export.files.tokenizer_json import BytePairs
from embedding_export.tokenizer.sections import Sections, cuts_before_spaces, sections
from embedding_export.tokenizer.stress_texts import stress_texts
from embedding_runtime.bundle import TokenizerInfo
from embedding_runtime.tokenizers.table import TableTokenizer
from embedding_runtime.tokenizers.table_file import (
    ALIGNMENT,
    ITEM_BYTES,
    MAGIC,
    PREFIX,
    SECTIONS,
    Header,
    Section,
)

PROVED_LENGTHS = (None, 8, 33)


@dataclass(frozen=True)
class TableInfo:
    """A written table: `size` in bytes, `cuts` if text may be cut before spaces, `proved` texts compared."""

    vocab_size: int
    merges: int
    bos_id: int
    eos_id: int
    size: int
    cuts: bool
    proved: int


def build_table(source: TokenizerFile, out: Path) -> TableInfo:
    """Write `out` and check that its ids are those of the `tokenizers` library on every stress text.

    On an error nothing is left under `out`.

    Raises:
        UnsupportedTokenizer: the tokenizer has something the table does not reproduce; the message names it.
        CheckpointError: `source` cannot be read.
        ExportError: the table gives other ids than the library, or cannot be written.
    """
    tokenizer = source.pairs
    try:
        size = _write(tokenizer, source.library, out)
        proved = _prove(source, out)
    except BaseException as e:
        out.unlink(missing_ok=True)
        if isinstance(e, OSError):
            raise ExportError(f"{out} cannot be written ({e}). Free space, or choose another target.") from e
        raise
    cuts = cuts_before_spaces(tokenizer)
    return TableInfo(
        len(tokenizer.pieces), len(tokenizer.merges), tokenizer.bos_id, tokenizer.eos_id, size, cuts, proved
    )


def _write(tokenizer: BytePairs, library: Any, out: Path) -> int:
    model = library.model

    def is_whole(piece: str, token_id: int) -> bool:
        return [t.id for t in model.tokenize(piece)] == [token_id]

    data = sections(tokenizer, is_whole)
    header = Header(
        vocab_size=len(tokenizer.pieces),
        merges=len(tokenizer.merges),
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        longest_piece=max(map(len, tokenizer.vocab)),
        cuts=int(cuts_before_spaces(tokenizer)),
        sections={},
    )
    version = 2 if any(a.normalized for a in tokenizer.added) else 1  # an older runtime reads 1 rightly
    return _write_file(out, version, header, data)


def _write_file(out: Path, version: int, header: Header, data: Sections) -> int:
    raw = {name: data[name].astype(f"<u{ITEM_BYTES[code]}").tobytes() for name, code in SECTIONS.items()}
    blank = Section("B", 1 << 40, 1 << 40, 1 << 32)  # as long as any header's numbers
    reserved = len(_with_sections(header, dict.fromkeys(raw, blank)))
    offset = _aligned(PREFIX.size + reserved)
    places = {}
    for name, content in raw.items():
        count = len(content) // ITEM_BYTES[SECTIONS[name]]
        places[name] = Section(SECTIONS[name], offset, count, zlib.crc32(content))
        offset = _aligned(places[name].stop)
    encoded = _with_sections(header, places).ljust(reserved)
    with out.open("wb") as file:
        file.write(PREFIX.pack(MAGIC, version, len(encoded), zlib.crc32(encoded)) + encoded)
        for name, content in raw.items():
            file.write(bytes(places[name].offset - file.tell()))
            file.write(content)
        return file.tell()


def _with_sections(header: Header, places: dict[str, Section]) -> bytes:
    fields = {f: getattr(header, f) for f in Header.__dataclass_fields__}
    return Header(**fields | {"sections": places}).to_json()


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def _prove(source: TokenizerFile, out: Path) -> int:
    """Compare ids on the stress texts, whole and truncated, with control tokens read as text and as control
    tokens."""
    tokenizer, library = source.pairs, source.library
    size, eos = len(tokenizer.pieces), tokenizer.eos_id
    info = TokenizerInfo(out.name, size, tokenizer.bos_id, eos, 0, source.lower, ())
    table = TableTokenizer.open(out, info)
    texts = stress_texts(tokenizer, left_out=source.without_row)
    for allow_special in (False, True):
        library.encode_special_tokens = not allow_special
        for text, encoding in zip(texts, library.encode_batch(texts), strict=True):
            for length in PROVED_LENGTHS:
                token_ids = table.encode(text, length, allow_special=allow_special)
                _same(text, token_ids, truncated(encoding.ids, length, eos))
    return len(texts)


def truncated(ids: list[int], length: int | None, eos: int) -> list[int]:
    """At most `length` ids, the last one `eos`."""
    return ids if length is None or len(ids) <= length else [*ids[: length - 1], eos]


def _same(text: str, actual: list[int], expected: list[int]) -> None:
    if actual != expected:
        raise ExportError(
            f"The compact table gives {actual[:20]} for {text[:80]!r}; the tokenizers library gives "
            f"{expected[:20]}. Please report this tokenizer; tokenizer.json can be used instead."
        )
