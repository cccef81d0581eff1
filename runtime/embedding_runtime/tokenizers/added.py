"""Finds added tokens in a text: a trie of them, searched from left to right."""

import re
from bisect import bisect_left
from collections.abc import Callable
from typing import NamedTuple

from embedding_runtime.tokenizers.table_file import TableFile

SPECIAL = 1 << 31
NORMALIZED = 1 << 30
_ID = NORMALIZED - 1


class Added(NamedTuple):
    """An added token found in a text."""

    start: int
    stop: int
    token_id: int


class AddedTokens:
    """Entries of one kind, matched before everything else: the leftmost, and of those the longest.

    `kind` is 0 for entries that are matched on the raw text, NORMALIZED for those on the normalized text.
    """

    def __init__(self, table: TableFile, kind: int) -> None:
        self._kind = kind
        self._children = table.view("added_first_child")
        self._chars = table.view("added_char")
        self._tokens = table.view("added_token")
        beginnings = [self._beginning(node) for node in range(self._children[0], self._children[1])]
        self._first = re.compile("|".join(beginnings) or r"(?!)")

    @staticmethod
    def longest(table: TableFile) -> int:
        """The length of the longest entry that is matched on the normalized text, 0 if there is none."""
        children, tokens = table.view("added_first_child"), table.view("added_token")
        depth, level, deepest = 0, range(1), 0
        while level:  # the nodes lie breadth first
            if any(tokens[node] & NORMALIZED for node in level):
                deepest = depth
            depth, level = depth + 1, range(children[level.start], children[level.stop])
        return deepest

    def find(
        self, text: str, start: int, stop: int, allow_special: bool, limit: int
    ) -> tuple[Added | None, int]:
        """The first token that begins in `text[start:stop]` and ends by `limit`, and where to continue.

        A control token that is not allowed is not a token, but no other token may begin within it: so it is
        in the `tokenizers` library.
        """
        while candidate := self._first.search(text, start, stop + 1):  # it looks one character ahead
            begin = candidate.start()
            if begin == stop:
                break
            end, value = self._longest(text, begin, limit)
            start = max(end, begin + 1)
            if value and (allow_special or not value & SPECIAL):
                return Added(begin, end, (value & _ID) - 1), end
        return None, max(start, stop)

    def _beginning(self, node: int) -> str:
        """A pattern for the first character, and for the second if every entry has one."""
        pattern = re.escape(chr(self._chars[node]))
        if self._tokens[node]:
            return pattern
        second = "".join(map(chr, self._chars[self._children[node] : self._children[node + 1]]))
        return f"{pattern}(?=[{re.escape(second)}])"

    def special_ids(self) -> frozenset[int]:
        """Ids of the control tokens."""
        return frozenset((value & _ID) - 1 for value in self._tokens if value & SPECIAL)

    def _longest(self, text: str, begin: int, limit: int) -> tuple[int, int]:
        """Walk the trie from `begin`; end and value of the longest entry, (begin, 0) for none."""
        node, end, value = 0, begin, 0
        children, chars, tokens = self._children, self._chars, self._tokens
        for i in range(begin, min(limit, len(text))):
            first, last, char = children[node], children[node + 1], ord(text[i])
            node = bisect_left(chars, char, first, last)
            if node == last or chars[node] != char:
                break
            if tokens[node] and tokens[node] & NORMALIZED == self._kind:
                end, value = i + 1, tokens[node]
        return end, value


class AddedSearch:
    """The added tokens of one text, searched from left to right.

    As in the `tokenizers` library: first those of the raw text, then, in each stretch between them, those of
    the normalized text. `normal` gives a text's normal form, of the same length.
    """

    def __init__(
        self, tables: "AddedTables", normal: Callable[[str], str], text: str, allow_special: bool
    ) -> None:
        self._raw, self._normalized, self._longest = tables
        self._normal, self._text, self._allow = normal, text, allow_special
        self._ahead: Added | None = None
        self._scanned = self._scanned_normal = 0
        self._window, self._window_start = "", 0

    def next(self, position: int, stop: int) -> Added | None:
        """The first token that begins in `text[position:stop]`; `position` never goes back."""
        size = len(self._text)
        if self._ahead is None or self._ahead.start < position:
            start, end = max(self._scanned, position), min(stop + self._longest, size)
            self._ahead, self._scanned = self._raw.find(self._text, start, end, self._allow, size)
        raw = self._ahead
        if self._longest:
            limit = raw.start if raw else size
            start = max(self._scanned_normal, position)
            if normal := self._in_stretch(start, min(stop, limit), limit):
                return normal
        return raw if raw and raw.start < stop else None

    def _in_stretch(self, start: int, stop: int, limit: int) -> Added | None:
        """The first token of the normalized text that begins in `text[start:stop]` and ends by `limit`."""
        if start >= stop:
            return None
        if min(stop + self._longest, len(self._text)) > self._window_start + len(self._window):
            self._window = self._normal(self._text[start : 2 * stop - start + self._longest])
            self._window_start = start
        shift = self._window_start
        token, scanned = self._normalized.find(
            self._window, start - shift, stop - shift, self._allow, limit - shift
        )
        self._scanned_normal = scanned + shift
        return token and Added(token.start + shift, token.stop + shift, token.token_id)


class AddedTables(NamedTuple):
    """Entries of both kinds, and the characters of the longest that is matched on the normalized text."""

    raw: AddedTokens
    normalized: AddedTokens
    longest: int

    @classmethod
    def of(cls, table: TableFile) -> "AddedTables":
        """Both kinds of a table."""
        raw = AddedTokens(table, 0)
        if table.version == 1:
            return cls(raw, raw, 0)
        return cls(raw, AddedTokens(table, NORMALIZED), AddedTokens.longest(table))
