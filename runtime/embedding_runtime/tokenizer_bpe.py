"""Byte-pair merging over a table's sections: symbols in, tokens out, as the `tokenizers` library merges.

The rule: of all neighbouring pairs that have a merge, the one of lowest rank is merged first, the leftmost of
equals first, until none is left. Knows nothing of added tokens, words or text normalisation.
"""

import heapq
import zlib
from collections.abc import Callable, Sequence
from itertools import pairwise

from embedding_runtime.table_file import TableFile

ID_BITS = 21
RANK_SHIFT = 2 * ID_BITS
ID_MASK = (1 << ID_BITS) - 1
KEY_MASK = (1 << RANK_SHIFT) - 1
WHOLE = 1 << ID_BITS  # flag in piece_slots: merging the piece's own characters gives the piece
EMPTY_SLOT = (1 << 32) - 1
NO_MERGE = 1 << 64
CACHED_PAIRS = 1 << 15
CACHED_CHARS = 1 << 15
SHORT = 48
_POSITION_BITS = 32
_POSITION_MASK = (1 << _POSITION_BITS) - 1

Ahead = Callable[[int], Sequence[int]]


def stride(slots: int) -> int:
    """Slots per unit of displacement: 16 bits must reach every slot."""
    return (slots >> 16) + 1


class Pairs(dict[int, int]):
    """`left << 21 | right` → `rank << 42 | key`, or `NO_MERGE`; filled from the table as it is asked."""

    def __init__(self, table: TableFile) -> None:
        self._slots = table.view("merge_slots")
        self._displacements = table.view("merge_displacements")
        self._stride = stride(len(self._slots))

    def __missing__(self, key: int) -> int:
        slots, displacements = self._slots, self._displacements
        entry = slots[(key + self._stride * displacements[key % len(displacements)]) % len(slots)]
        if entry & KEY_MASK != key:
            entry = NO_MERGE
        if len(self) >= CACHED_PAIRS:
            self.clear()
        self[key] = entry
        return entry


class Pieces:
    """The vocabulary's strings, both ways."""

    def __init__(self, table: TableFile) -> None:
        self._data = table.data
        self._start = table.header.sections["piece_bytes"].offset
        self._offsets = table.view("piece_offsets")
        self._slots = table.view("piece_slots")

    def __getitem__(self, token_id: int) -> bytes:
        """UTF-8 of an entry."""
        start = self._start
        return self._data[start + self._offsets[token_id] : start + self._offsets[token_id + 1]]

    def find(self, piece: bytes) -> int:
        """The id of a model entry, with `WHOLE` set where it applies; -1 where there is none.

        Open addressing: from slot `crc32 mod slots` on, until an empty one; the top 10 bits of a slot are
        those of the CRC-32.
        """
        crc, slots = zlib.crc32(piece), self._slots
        mask, top = len(slots) - 1, crc >> 22
        for i in range(crc, crc + len(slots)):
            slot = slots[i & mask]
            if slot == EMPTY_SLOT:
                return -1
            if slot >> 22 == top and self[slot & ID_MASK] == piece:
                return slot & (WHOLE | ID_MASK)
        return -1


class Symbols(dict[str, int]):
    """Character → id of its entry, -1 where it has none."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces

    def __missing__(self, char: str) -> int:
        found = self._pieces.find(char.encode())
        if found >= 0:
            found &= ID_MASK
        if len(self) >= CACHED_CHARS:
            self.clear()
        self[char] = found
        return found


class Merger:
    """Merges lists of symbols."""

    def __init__(self, table: TableFile) -> None:
        self._pairs = Pairs(table)
        self._results = table.view("merge_results")

    def merge(self, ids: list[int]) -> list[int]:
        """Merge all of `ids`; time n log n (a short list is scanned, which is faster)."""
        return self._merge_short(ids) if len(ids) <= SHORT else self.merge_open(ids, None)[0]

    def _merge_short(self, ids: list[int]) -> list[int]:
        pairs, results = self._pairs, self._results
        entries = [pairs[left << ID_BITS | right] for left, right in pairwise(ids)]
        while entries and (best := min(entries)) < NO_MERGE:
            i = entries.index(best)
            ids[i] = new = results[best >> RANK_SHIFT]
            del ids[i + 1], entries[i]
            if i < len(entries):
                entries[i] = pairs[new << ID_BITS | ids[i + 1]]
            if i:
                entries[i - 1] = pairs[ids[i - 1] << ID_BITS | new]
        return ids

    def merge_open(self, ids: list[int], ahead: Ahead | None) -> tuple[list[int], int]:
        """Merge the beginning of a longer sequence as far as what follows cannot change it.

        `ahead(i)` names every symbol that the text from symbol `i` on could begin with, however it is merged.
        While merging, the last symbol known could at the earliest join what follows at the lowest rank that
        it has with one of those. If its turn comes, it is given up as unknown: its own start becomes the
        border, and the symbol before it the last one known. So every token returned, and the border itself,
        are those of merging the whole. Without `ahead` the sequence is whole.

        Returns the tokens, and the index of the first symbol not covered by them.
        """
        return _OpenMerge(ids, ahead, self._pairs, self._results).run()


class _OpenMerge:
    """The state of one `merge_open`: a linked list of symbols and a heap of (rank, position)."""

    def __init__(self, ids: list[int], ahead: Ahead | None, pairs: Pairs, results: memoryview) -> None:
        self._ids = ids
        self._pairs = pairs
        self._results = results
        self._next = list(range(1, len(ids) + 1))
        self._previous = list(range(-1, len(ids) - 1))
        self._border = len(ids)
        self._ahead = ahead
        self._candidates: Sequence[int] = ahead(self._border) if ahead else ()
        self._heap: list[int] = []

    def run(self) -> tuple[list[int], int]:
        ids, following = self._ids, self._next
        self._heap = [r << _POSITION_BITS | i for i in range(len(ids)) if (r := self._rank(i)) >= 0]
        heapq.heapify(self._heap)
        while self._heap:
            item = heapq.heappop(self._heap)
            i, rank = item & _POSITION_MASK, item >> _POSITION_BITS
            if i >= self._border or ids[i] < 0 or self._rank(i) != rank:
                continue  # a pair that no longer exists
            if following[i] == self._border:
                self._give_up(i)
            else:
                self._join(i, rank)
        tokens, i = [], 0
        while i < self._border:
            tokens.append(ids[i])
            i = following[i]
        return tokens, self._border

    def _rank(self, i: int) -> int:
        """Rank of the pair that begins at `i`, -1 for none; at the border the lowest it could have."""
        pairs, left, j = self._pairs, self._ids[i] << ID_BITS, self._next[i]
        if j < self._border:
            entry = pairs[left | self._ids[j]]
        else:
            entry = min((pairs[left | right] for right in self._candidates), default=NO_MERGE)
        return entry >> RANK_SHIFT if entry < NO_MERGE else -1

    def _push(self, i: int) -> None:
        rank = self._rank(i)
        if rank >= 0:
            heapq.heappush(self._heap, rank << _POSITION_BITS | i)

    def _join(self, i: int, rank: int) -> None:
        ids, following, previous = self._ids, self._next, self._previous
        j = following[i]
        ids[i], ids[j] = self._results[rank], -1
        following[i] = after = following[j]
        if after < len(ids):
            previous[after] = i
        self._push(i)
        if previous[i] >= 0:
            self._push(previous[i])

    def _give_up(self, i: int) -> None:
        assert self._ahead is not None
        self._border = i
        self._candidates = self._ahead(i)
        if self._previous[i] >= 0:
            self._push(self._previous[i])
