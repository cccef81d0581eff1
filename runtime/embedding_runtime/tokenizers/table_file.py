"""The container of a compact tokenizer table: prefix, header, checked sections, all memory-mapped.

`tokenizers/table.py` interprets the sections; TOKENIZER_TABLE.md describes both.
"""

import dataclasses
import json
import mmap
import struct
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedding_runtime.errors import BundleError

MAGIC = b"EMBTABLE"
VERSIONS = (1, 2)  # 2 has added tokens that are matched on the normalized text
PREFIX = struct.Struct("<8sIII")  # magic, version, bytes of the header, CRC-32 of the header
ALIGNMENT = 64
LARGEST_HEADER = 1 << 16
ITEM_BYTES = {"B": 1, "H": 2, "I": 4, "Q": 8}
SECTIONS = {
    "piece_bytes": "B",
    "piece_offsets": "I",
    "piece_slots": "I",
    "merge_slots": "Q",
    "merge_displacements": "H",
    "merge_results": "I",
    "byte_ids": "I",
    "added_first_child": "I",
    "added_char": "I",
    "added_token": "I",
}


@dataclass(frozen=True)
class Section:
    """`count` little-endian unsigned integers of `type` (a key of `ITEM_BYTES`) from byte `offset` on."""

    type: str
    offset: int
    count: int
    crc32: int

    @property
    def stop(self) -> int:
        """The byte after the last."""
        return self.offset + self.count * ITEM_BYTES[self.type]


@dataclass(frozen=True)
class Header:
    """Figures of a table; `cuts` is 1 if text may be cut before every run of `▁`."""

    vocab_size: int
    merges: int
    bos_id: int
    eos_id: int
    longest_piece: int
    cuts: int
    sections: dict[str, Section]

    def to_json(self) -> bytes:
        """The header as written in the file."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":")).encode("ascii")

    def counts(self) -> dict[str, int]:
        """The number of items in each section whose size the figures determine."""
        return {
            "piece_offsets": self.vocab_size + 1,
            "merge_results": self.merges,
            "byte_ids": 256,
        }


class TableFile:
    """An open table. The map stays open as long as one of its views is in use."""

    def __init__(self, path: Path, version: int, header: Header, data: mmap.mmap) -> None:
        self.path = path
        self.version = version
        self.header = header
        self.data = data

    @classmethod
    def open(cls, path: Path) -> "TableFile":
        """Map the file and check prefix, header (by its checksum) and every section's place.

        Raises:
            BundleError: missing, unreadable, foreign, truncated, damaged in its header, or another version.
        """
        if sys.byteorder != "little":
            raise BundleError(
                f"{path} can only be read on a little-endian machine. Export with tokenizer.json."
            )
        try:
            with path.open("rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as e:  # ValueError: an empty file cannot be mapped
            raise _refused(path, f"cannot be read ({e})") from e
        version, header = _header(path, data)
        _check_sections(path, header, len(data))
        return cls(path, version, header, data)

    def view(self, name: str) -> memoryview:
        """A section as a read-only sequence of integers."""
        section = self.header.sections[name]
        return memoryview(self.data)[section.offset : section.stop].cast(section.type)  # type: ignore[call-overload, no-any-return]

    def verify(self) -> None:
        """Compare every section with its CRC-32: reads the whole file.

        Raises:
            BundleError: a section differs.
        """
        for name, section in self.header.sections.items():
            if zlib.crc32(memoryview(self.data)[section.offset : section.stop]) != section.crc32:
                raise _refused(self.path, f"is damaged in its section {name} (wrong CRC-32)")


def _header(path: Path, data: mmap.mmap) -> tuple[int, Header]:
    if len(data) < PREFIX.size:
        raise _refused(path, f"has {len(data)} bytes, fewer than a table's prefix")
    magic, version, size, crc = PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise _refused(path, f"is not a tokenizer table (begins with {magic!r})")
    if version not in VERSIONS:
        raise BundleError(
            f"{path} is a tokenizer table of version {version}; this version reads 1 and 2. "
            "Upgrade embedding-edge, or export the bundle again."
        )
    raw = data[PREFIX.size : PREFIX.size + size] if size <= LARGEST_HEADER else b""
    if len(raw) != size or zlib.crc32(raw) != crc:
        raise _refused(path, "is damaged in its header (wrong CRC-32)")
    return version, _decoded(path, raw)


def _decoded(path: Path, raw: bytes) -> Header:
    try:
        fields: dict[str, Any] = json.loads(raw)
        sections = {name: Section(**fields) for name, fields in fields.pop("sections").items()}
        header = Header(**fields, sections=sections)
        numbers = [v for k, v in fields.items()] + [
            n for s in sections.values() for n in (s.offset, s.count, s.crc32)
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as e:
        raise _refused(path, f"has a header this version does not understand ({e})") from e
    if any(type(n) is not int or n < 0 for n in numbers):
        raise _refused(path, "has a header with a field that is not a natural number")
    return header


def _check_sections(path: Path, header: Header, size: int) -> None:
    types = {name: s.type for name, s in header.sections.items()}
    if types != SECTIONS:
        raise _refused(path, f"has the sections {types}, expected {SECTIONS}")
    last = max(s.stop for s in header.sections.values())
    if last != size:
        raise _refused(path, f"has {size} bytes; its header says {last}")
    for name, section in header.sections.items():
        if section.offset % 8 or section.count != header.counts().get(name, section.count):
            raise _refused(
                path, f"has {section.count} items in {name} at byte {section.offset}, not a table's layout"
            )


def _refused(path: Path, fault: str) -> BundleError:
    return BundleError(f"{path} {fault}. Copy or export the bundle again.")
