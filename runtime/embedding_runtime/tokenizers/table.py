"""The compact table as a tokenizer: added tokens, words, a cache of them, early stop, decode, offsets.

`bpe.py` merges symbols, and `table_file.py` reads the file.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from embedding_runtime.bundle import TokenizerInfo
from embedding_runtime.errors import BundleError
from embedding_runtime.tokenizers.added import AddedSearch, AddedTables
from embedding_runtime.tokenizers.bpe import ID_MASK, WHOLE, Merger, Pieces, Symbols
from embedding_runtime.tokenizers.checks import (
    DAMAGED,
    check_rows,
    checked_ids,
    checked_limit,
    checked_text,
    unknown_id,
)
from embedding_runtime.tokenizers.table_file import TableFile
from embedding_runtime.tokenizers.unicode_lower import lower

SPACE = "▁"
WORD = re.compile(r"[ ▁]+[^ ▁]*|[^ ▁]+")
WHOLE_TEXT = re.compile(r".+", re.DOTALL)
BYTE_ENTRY = re.compile(r"<0x([0-9A-Fa-f]{2})>")
CACHED_WORDS = 8192  # twice: the recent ones and those before
LONGEST_CACHED = 64
CHARS_PER_TOKEN = 8
LARGEST_BLOCK = 1 << 14
SMALLEST_BLOCK = 1 << 8
UNKNOWN = -1
Span = tuple[int, int]


class Part(NamedTuple):
    """A stretch of text from `start` on, in words; `ids` are set if no word has to be looked up."""

    start: int
    words: list[str]
    ids: list[int] | None


class TableTokenizer:
    """`Tokenizer` on a memory-mapped table; threads may share one: its caches are only added to."""

    def __init__(self, table: TableFile, info: TokenizerInfo) -> None:
        self._table = table
        self._info = info
        self._pieces = Pieces(table)
        self._symbols = Symbols(self._pieces)
        self._merger = Merger(table)
        self._added = AddedTables.of(table)
        self._byte_ids = table.view("byte_ids")
        self._word = WORD if table.header.cuts else WHOLE_TEXT
        self._recent: dict[str, tuple[int, ...]] = {}
        self._older: dict[str, tuple[int, ...]] = {}
        self._special: frozenset[int] | None = None

    @classmethod
    def open(cls, path: Path, info: TokenizerInfo, *, verify: bool = True) -> "TableTokenizer":
        """Map a table; `verify` compares every section with its checksum.

        Raises:
            BundleError: see `TableFile.open` and `TableFile.verify`, or the manifest describes another table.
        """
        table = TableFile.open(path)
        if verify:
            table.verify()
        header = table.header
        actual = (header.vocab_size, header.bos_id, header.eos_id)
        if actual[1:] != (info.bos_id, info.eos_id) or header.vocab_size > info.vocab_size:
            raise BundleError(
                f"{path} has (entries, <bos>, <eos>) {actual}; the manifest says "
                f"{(info.vocab_size, info.bos_id, info.eos_id)}. Export the bundle again."
            )
        try:
            return cls(table, info)
        except DAMAGED as e:
            raise BundleError(
                f"{path} has sections that do not fit together ({e!r}). Export the bundle again."
            ) from e

    def encode(self, text: str, max_length: int | None = None, *, allow_special: bool = False) -> list[int]:
        """See `Tokenizer.encode`. Stops as soon as `max_length` ids are certain, however long the text is."""
        checked_limit(max_length)
        text = self._expanded(self._checked(text, allow_special))
        out, block = [self._info.bos_id], LARGEST_BLOCK
        if max_length is not None:
            block = min(LARGEST_BLOCK, max(SMALLEST_BLOCK, CHARS_PER_TOKEN * max_length))
        for part in self._parts(text, block, allow_special):
            out += self._part_ids(part)
            if max_length is not None and len(out) >= max_length:
                del out[max_length - 1 :]
                break
        out.append(self._info.eos_id)
        return out

    def offsets(self, text: str, *, allow_special: bool = False) -> list[Span]:
        """See `Tokenizer.offsets`."""
        spans = [(0, 0)]
        expanded = self._expanded(self._checked(text, allow_special))
        for part in self._parts(expanded, LARGEST_BLOCK, allow_special):
            start, ids = part.start, iter(self._part_ids(part))
            if part.ids is not None and len(part.ids) == 1:  # an added token among others
                spans.append((start, start + len(part.words[0])))
                continue
            for word in part.words:
                spans += self._spans(word, start, ids)
                start += len(word)
        if len(expanded) > len(text):
            origins = [i for i, char in enumerate(text) for _ in self._expanded(char)]
            spans = [(origins[start], origins[stop - 1] + 1) if stop else (0, 0) for start, stop in spans]
        return [*spans, (0, 0)]

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer.decode`."""
        if self._special is None:
            self._special = self._added.raw.special_ids()
        plain = (i for i in checked_ids(ids) if i not in self._special and i < self._table.header.vocab_size)
        text, pending = [], bytearray()
        for token in map(self.id_to_token, plain):
            if byte := BYTE_ENTRY.fullmatch(token):
                pending.append(int(byte[1], 16))
                continue
            text += [_as_text(pending), token.replace(SPACE, " ")]
            pending.clear()
        return "".join([*text, _as_text(pending)])

    def id_to_token(self, token_id: int) -> str:
        """See `Tokenizer.id_to_token`."""
        if not 0 <= token_id < self._table.header.vocab_size:
            raise unknown_id(token_id, self._table.header.vocab_size)
        return self._pieces[token_id].decode()

    def _checked(self, text: str, allow_special: bool) -> str:
        text = checked_text(text)
        if allow_special:
            check_rows(text, self._info.without_row)
        return text

    def _expanded(self, text: str) -> str:
        """`text`; if tokens are searched for in the lowered text, with `İ` as its two lowered characters.

        So a text and its normal form have the same length, and a token may end between the two.
        """
        return text.replace("İ", lower("İ")) if self._added.longest and self._info.do_lower_case else text

    def _parts(self, text: str, block: int, allow_special: bool) -> Iterator[Part]:
        """The text block by block, so that no more is read than the requested ids need."""
        position = 0
        search = AddedSearch(self._added, self._normal, text, allow_special)
        while position < len(text):
            stop = min(position + block, len(text))
            added = search.next(position, stop)
            end = added.start if added else stop
            words = self._word.findall(text, position, end)
            if added is None and stop < len(text):
                end -= len(words.pop())  # it may continue behind the block
                if not words:
                    ids, end = self._beginning(text, position, stop)
                    if 2 * (end - position) < block:
                        block *= 2  # so that starting over stays a small part of the work
                    if end > position:
                        yield Part(position, [text[position:end]], ids)
                    position = end
                    continue
            yield Part(position, words, None)
            position = end
            if added:
                yield Part(position, [text[position : added.stop]], [added.token_id])
                position = added.stop

    def _part_ids(self, part: Part) -> list[int]:
        if part.ids is not None:
            return part.ids
        ids: list[int] = []
        recent = self._recent
        for word in part.words:
            ids += recent.get(word) or self._word_ids(word)
        return ids

    def _word_ids(self, word: str) -> tuple[int, ...]:
        ids = self._older.get(word) or self._merged(self._normal(word))
        if len(word) <= LONGEST_CACHED:
            if len(self._recent) >= CACHED_WORDS:
                self._older, self._recent = self._recent, {}
            self._recent[word] = ids
        return ids

    def _merged(self, word: str) -> tuple[int, ...]:
        piece = self._pieces.find(word.encode())
        if piece >= 0 and piece & WHOLE:
            return (piece & ID_MASK,)
        ids = list(map(self._symbols.__getitem__, word))
        return tuple(self._merger.merge(self._with_bytes(word, ids)[0] if UNKNOWN in ids else ids))

    def _normal(self, text: str) -> str:
        """The text to merge: spaces as `▁`, characters lowered one by one if requested (no final sigma)."""
        if self._info.do_lower_case:
            text = lower(text)
        return text.replace(" ", SPACE)

    def _with_bytes(self, text: str, ids: list[int]) -> tuple[list[int], list[int]]:
        """Symbols with bytes in place of unknown characters, and the index in `text` of each."""
        symbols, starts = [], []
        for i, (char, symbol) in enumerate(zip(text, ids, strict=True)):
            parts = [symbol] if symbol >= 0 else [self._byte_ids[b] for b in char.encode()]
            symbols += parts
            starts += [i] * len(parts)
        return symbols, starts

    def _beginning(self, text: str, start: int, stop: int) -> tuple[list[int], int]:
        """Tokens of `text[start:stop]` as far as the text after it cannot change them, and where they end."""
        normal = self._normal(text[start : stop + self._table.header.longest_piece])
        head = len(self._normal(text[start:stop]))
        ids = list(map(self._symbols.__getitem__, normal[:head]))
        symbols, starts = self._with_bytes(normal[:head], ids)
        starts.append(head)
        ids, border = self._merger.merge_open(symbols, lambda i, n: self._candidates(normal, starts[i], n))
        end = self._raw_length(text[start:stop], starts[border])
        return (ids, start + end) if end else ([], start)

    def _candidates(self, text: str, start: int, longer_than: int) -> list[tuple[int, int]]:
        """Tokens with which `text[start:]` could begin, and the highest rank needed to make each.

        Only whole entries can result; bytes never merge.
        """
        if self._symbols[text[start]] == UNKNOWN:
            return []
        stop = min(len(text), start + self._table.header.longest_piece)
        candidates = []
        for end in range(start + longer_than + 1, stop + 1):
            piece = self._pieces.find(text[start:end].encode())
            if piece >= 0 and piece & WHOLE:
                symbols = [self._symbols[char] for char in text[start:end]]
                candidates.append((piece & ID_MASK, self._merger.highest_rank(symbols)))
        return candidates

    def _raw_length(self, raw: str, length: int) -> int:
        """The number of characters of `raw` whose normal form has `length` ones; 0 if none ends there."""
        if not self._info.do_lower_case:
            return length
        done = 0
        for i, char in enumerate(raw):
            if done == length:
                return i
            done += len(self._normal(char))
        return len(raw) if done == length else 0

    def _spans(self, word: str, start: int, ids: Iterator[int]) -> list[Span]:
        """The characters of each id of `word`, which begins at `start`."""
        lowered = list(map(self._normal, word))
        normal = "".join(lowered)
        origins = [start + i for i, chars in enumerate(lowered) for _ in chars]
        spans: list[Span] = []
        position = 0
        while position < len(normal):
            token_id, char, count, size = next(ids), normal[position], 1, 1
            if self._symbols[char] == UNKNOWN:
                count = len(char.encode())
                for _ in range(count - 1):
                    next(ids)
            else:
                size = len(self.id_to_token(token_id))
            spans += [(origins[position], origins[position + size - 1] + 1)] * count
            position += size
        return spans


def _as_text(pending: bytearray) -> str:
    """Bytes as text; if they are not UTF-8, all of them as U+FFFD, as in the `tokenizers` library."""
    try:
        return pending.decode()
    except UnicodeDecodeError:
        return "\ufffd" * len(pending)
