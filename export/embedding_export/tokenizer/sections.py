"""A byte-pair tokenizer as the arrays of a compact table: hashes of pieces and merges, trie of added tokens.

runtime/TOKENIZER_TABLE.md describes the layout and meaning of each array.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedding_export.errors import ExportError
from embedding_export.files.tokenizer_json import BYTES, SPACE, BytePairs
from embedding_runtime.tokenizers.added import NORMALIZED, SPECIAL
from embedding_runtime.tokenizers.bpe import EMPTY_SLOT, ID_BITS, NO_MERGE, RANK_SHIFT, WHOLE, stride

Sections = dict[str, NDArray[np.generic]]
Uints = NDArray[np.uint64]
Places = NDArray[np.intp]

_LOAD = 0.9  # of merge_slots: fuller takes much longer to place
_PER_BUCKET = 3
_DISPLACEMENTS = 1 << 16
_ROUNDS = 400
_FEW = 100
_SCAN = 1 << 9
_SEED = 20240904


def sections(tokenizer: BytePairs, is_whole: Callable[[str, int], bool]) -> Sections:
    """All sections of a table; `is_whole` says whether a piece's characters merge into the piece itself."""
    data = [piece.encode() for piece in tokenizer.pieces]
    ends = np.cumsum([0, *map(len, data)])
    slots, displacements = _merge_hash(tokenizer.merges)
    return {
        "piece_bytes": np.frombuffer(b"".join(data), np.uint8),
        "piece_offsets": ends.astype(np.uint32),
        "piece_slots": _piece_hash(tokenizer.vocab, is_whole),
        "merge_slots": slots,
        "merge_displacements": displacements,
        "merge_results": np.array([result for _, _, result in tokenizer.merges], np.uint32),
        "byte_ids": np.array([tokenizer.vocab[b] for b in BYTES], np.uint32),
        **_added_trie(tokenizer),
    }


def cuts_before_spaces(tokenizer: BytePairs) -> bool:
    """Whether no merge can join `▁…` to text before it that does not end in `▁`."""
    pieces = tokenizer.pieces
    crossing = (
        pieces[right].startswith(SPACE) and not pieces[left].endswith(SPACE)
        for left, right, _ in tokenizer.merges
    )
    return not any(crossing)


def _piece_hash(vocab: dict[str, int], is_whole: Callable[[str, int], bool]) -> NDArray[np.uint32]:
    """A hash table, at most half full, open addressing; slot: `top 10 bits of CRC-32 | whole | id`."""
    size = 1 << (2 * len(vocab) - 1).bit_length()
    slots = [EMPTY_SLOT] * size
    for piece, token_id in vocab.items():
        crc = zlib.crc32(piece.encode())
        i = crc & (size - 1)
        while slots[i] != EMPTY_SLOT:
            i = (i + 1) & (size - 1)
        slots[i] = crc >> 22 << 22 | (WHOLE if is_whole(piece, token_id) else 0) | token_id
    return np.array(slots, np.uint32)


def _merge_hash(merges: list[tuple[int, int, int]]) -> tuple[Uints, NDArray[np.uint16]]:
    """A perfect hash: a key's place is `(key + stride * displacement[key mod buckets]) mod slots`."""
    parts = np.array(merges, np.uint64).reshape(-1, 3)
    keys = parts[:, 0] << np.uint64(ID_BITS) | parts[:, 1]
    entries = np.arange(len(keys), dtype=np.uint64) << np.uint64(RANK_SHIFT) | keys
    buckets = _prime(len(keys) // _PER_BUCKET + 1)
    for size in _primes(int(len(keys) / _LOAD) + 3):
        displacements = _displacements(keys, buckets, size)
        if displacements is not None:
            slots = np.full(size, NO_MERGE - 1, np.uint64)
            slots[_places(keys, displacements, size)] = entries
            return slots, displacements.astype(np.uint16)
    raise ExportError("No place was found for every merge. This is a fault of the exporter: report it.")


def _places(keys: Uints, displacements: Uints, size: int) -> Places:
    bucket = keys % np.uint64(len(displacements))
    shift = np.uint64(stride(size)) * displacements[bucket]
    places: Places = ((keys + shift) % np.uint64(size)).astype(np.intp)
    return places


def _displacements(keys: Uints, buckets: int, size: int) -> Uints | None:
    """Displacements that give every key a place of its own; None if none are found.

    Buckets are placed by size, largest first: all of one size at once, at random, for some rounds; then the
    rest one by one.
    """
    bucket = (keys % np.uint64(buckets)).astype(np.intp)
    home = (keys % np.uint64(size)).astype(np.intp)
    if (np.diff(np.sort(bucket * size + home)) == 0).any():
        return None  # two keys of one bucket with one home always collide
    order = np.argsort(bucket, kind="stable")
    counts = np.bincount(bucket, minlength=buckets)
    starts = np.cumsum(counts) - counts
    placing = _Placing(
        np.zeros(size, bool), np.zeros(size, np.intp), np.zeros(buckets, np.uint64), stride(size)
    )
    for count in range(int(counts.max(initial=0)), 0, -1):
        todo = np.flatnonzero(counts == count)
        homes = home[order[starts[todo, None] + np.arange(count)]]
        if not placing.place(todo, homes):
            return None
    return placing.displacements


@dataclass(frozen=True)
class _Placing:
    """Which places are used, the row of this round that claims each, the displacements, and their stride."""

    is_used: NDArray[np.bool_]
    owner: NDArray[np.intp]
    displacements: Uints
    stride: int

    def place(self, todo: Places, homes: Places) -> bool:
        """Place the buckets `todo` (buckets,), whose keys hash to `homes` (buckets, keys).

        Returns False if one cannot be placed.
        """
        random = np.random.default_rng(_SEED)
        for _ in range(_ROUNDS):
            if len(todo) < _FEW:
                break
            tried = random.integers(0, _DISPLACEMENTS, len(todo))  # (buckets,)
            # (buckets, keys): where each bucket's keys would lie
            places = (homes + self.stride * tried[:, None]) % len(self.is_used)
            good = self._undisputed(places)
            self.is_used[places[good]] = True
            self.displacements[todo[good]] = tried[good]
            todo, homes = todo[~good], homes[~good]
        return all(self._place_one(int(b), h) for b, h in zip(todo, homes, strict=True))

    def _undisputed(self, places: Places) -> NDArray[np.bool_]:
        """Rows of `places` that are free and share no place with an earlier row."""
        rows = np.arange(len(places))[:, None]
        self.owner[places[::-1]] = rows[::-1]  # of several writers to one place, the last stays
        good: NDArray[np.bool_] = ((self.owner[places] == rows) & ~self.is_used[places]).all(axis=1)
        return good

    def _place_one(self, bucket: int, homes: Places) -> bool:
        for start in range(0, _DISPLACEMENTS, _SCAN):
            tried = np.arange(start, start + _SCAN)
            # (displacements, keys) of the one bucket
            places = (homes + self.stride * tried[:, None]) % len(self.is_used)
            free = ~self.is_used[places].any(axis=1)
            if free.any():
                self.displacements[bucket] = tried[free.argmax()]
                self.is_used[places[free.argmax()]] = True
                return True
        return False


def _primes(start: int) -> Iterator[int]:
    """The first 60 primes from `start` on."""
    number = start
    for _ in range(60):
        number = _prime(number)
        yield number
        number += 1


def _prime(number: int) -> int:
    """The smallest prime that is at least `number`, and at least 3."""
    number = max(number, 3) | 1
    while any(number % d == 0 for d in range(3, int(number**0.5) + 1, 2)):
        number += 2
    return number


def _added_trie(tokenizer: BytePairs) -> Sections:
    """Nodes breadth first, the children of each side by side and sorted by character; node 0 is the root."""
    values = {
        a.pattern: a.token_id + 1 | (SPECIAL if a.special else 0) | (NORMALIZED if a.normalized else 0)
        for a in tokenizer.added
    }
    children: dict[str, set[str]] = {"": set()}
    for content in values:
        for i in range(len(content)):
            children.setdefault(content[:i], set()).add(content[: i + 1])
    nodes, first_child = [""], []
    for prefix in nodes:  # grows while it is walked
        first_child.append(len(nodes))
        nodes += sorted(children.get(prefix, ()))
    first_child.append(len(nodes))
    return {
        "added_first_child": np.array(first_child, np.uint32),
        "added_char": np.array([ord(prefix[-1:] or "\0") for prefix in nodes], np.uint32),
        "added_token": np.array([values.get(prefix, 0) for prefix in nodes], np.uint32),
    }
