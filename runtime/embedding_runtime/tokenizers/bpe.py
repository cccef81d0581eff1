"""Byte-pair merging over a table's sections: symbols in, tokens out, as the `tokenizers` library merges.

The rule: of all neighbouring pairs that have a merge, the one of lowest rank is merged first, and of equals
the leftmost, until none is left. `table` handles added tokens, words and normalisation.
"""

import heapq
import zlib
from collections.abc import Callable, Sequence
from itertools import pairwise

from embedding_runtime.tokenizers.table_file import TableFile

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

Ahead = Callable[[int, int], Sequence[tuple[int, int]]]


def stride(slots: int) -> int:
    """Slots per unit of displacement: 16 bits must reach every slot."""
    return (slots >> 16) + 1


class Pairs(dict[int, int]):
    """`left << 21 | right` → `rank << 42 | key`, or `NO_MERGE`; filled from the table on demand."""

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
        """The id of a model entry, with `WHOLE` set if it applies; -1 if there is none.

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
    """Character → id of its entry, -1 if it has none."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces

    def __missing__(self, char: str) -> int:
        token_id = self._pieces.find(char.encode())
        if token_id >= 0:
            token_id &= ID_MASK
        if len(self) >= CACHED_CHARS:
            self.clear()
        self[char] = token_id
        return token_id


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

    def highest_rank(self, ids: list[int]) -> int:
        """The highest rank used while all of `ids` are merged; -1 for none."""
        highest = -1
        while len(ids) > 1:
            best = min(self._pairs[left << ID_BITS | right] for left, right in pairwise(ids))
            if best >= NO_MERGE:
                break
            highest = max(highest, best >> RANK_SHIFT)
            i = next(i for i in range(len(ids)) if ids[i] << ID_BITS | ids[i + 1] == best & KEY_MASK)
            ids = [*ids[:i], self._results[best >> RANK_SHIFT], *ids[i + 2 :]]
        return highest

    def merge_open(self, ids: list[int], ahead: Ahead | None) -> tuple[list[int], int]:
        """Merge the beginning of a longer sequence as far as the rest cannot change the result.

        Returns the tokens, and the index of the first symbol not covered by them: the border. Merging the
        whole gives these tokens, then those of merging what lies behind the border alone. Without `ahead` the
        sequence is whole, and the border its end.

        How: the last known symbol S may one day join a symbol R of what follows. `ahead(border, n)` gives the
        tokens of more than n characters that the text there could begin with, each with the highest rank r
        that it takes to make it. While some known pair has a rank of r or less, R does not exist; while some
        known pair has a lower rank than (S, R), they do not join. So S is safe until its turn comes in this
        order; then it is given up: its start is the new border, and the symbol before it the last known one.
        What follows now begins with the S given up, or with what grows from it.
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
        self._candidates = ahead(self._border, 0) if ahead else ()
        self._heap: list[int] = []
        self._passed = -1  # the highest rank merged: pairs of lower rank may have been merged anywhere
        self._turn = -1  # rank at which the last known symbol is given up

    def run(self) -> tuple[list[int], int]:
        ids, following = self._ids, self._next
        for i in range(len(ids)):
            self._push(i)
        while self._heap:
            item = heapq.heappop(self._heap)
            i, rank = item & _POSITION_MASK, item >> _POSITION_BITS
            if i >= self._border or ids[i] < 0:
                continue
            if following[i] == self._border:
                if rank == self._turn:
                    self._give_up(i)
            elif self._rank(i) == rank:  # else a pair that no longer exists
                self._join(i, rank)
        tokens, i = [], 0
        while i < self._border:
            tokens.append(ids[i])
            i = following[i]
        return tokens, self._border

    def _rank(self, i: int) -> int:
        """Rank of the pair of known symbols that begins at `i`, -1 for none."""
        entry = self._pairs[self._ids[i] << ID_BITS | self._ids[self._next[i]]]
        return entry >> RANK_SHIFT if entry < NO_MERGE else -1

    def _rank_at_border(self, i: int) -> int:
        """The lowest rank at which the last known symbol could join what follows, -1 for none."""
        pairs, left, lowest = self._pairs, self._ids[i] << ID_BITS, NO_MERGE
        for right, made_at in self._candidates:
            entry = pairs[left | right]
            if entry < NO_MERGE:
                # What was made at a lower rank than one already passed may be there by now.
                lowest = min(lowest, max(entry >> RANK_SHIFT, made_at if made_at >= self._passed else -1))
        return lowest if lowest < NO_MERGE else -1

    def _push(self, i: int) -> None:
        if self._next[i] == self._border:
            rank = self._turn = self._rank_at_border(i)
        else:
            rank = self._rank(i)
        if rank >= 0:
            heapq.heappush(self._heap, rank << _POSITION_BITS | i)

    def _join(self, i: int, rank: int) -> None:
        ids, following, previous = self._ids, self._next, self._previous
        j = following[i]
        ids[i], ids[j] = self._results[rank], -1
        following[i] = after = following[j]
        self._passed = max(self._passed, rank)
        if after < len(ids):
            previous[after] = i
        self._push(i)
        if previous[i] >= 0:
            self._push(previous[i])

    def _give_up(self, i: int) -> None:
        assert self._ahead is not None
        length = self._border - i  # symbols that merge are one character each
        self._border = i
        self._candidates = [(self._ids[i], -1), *self._ahead(i, length)]
        if self._previous[i] >= 0:
            self._push(self._previous[i])
