"""A bundle's `tokenizer.json`, read by the `tokenizers` library, if the bundle has no compact table.

Only this runtime file imports `tokenizers`.
"""

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embedding_runtime.bundle import TokenizerInfo
from embedding_runtime.errors import BundleError, EngineError
from embedding_runtime.tokenizers.checks import (
    check_rows,
    checked_ids,
    checked_limit,
    checked_text,
    unknown_id,
)

LONG_TEXT = 1 << 16


class LibraryTokenizer:
    """`Tokenizer` on the library; safe to use from several threads.

    The library's switch for control tokens belongs to the whole object, so a lock guards it.
    """

    def __init__(self, library: Any, info: TokenizerInfo) -> None:
        self._library = library
        self._eos = info.eos_id
        self._without_row = info.without_row
        self._lock = threading.Lock()
        self._cuts: bool | None = None

    @classmethod
    def open(cls, path: Path, info: TokenizerInfo) -> "LibraryTokenizer":
        """Read `tokenizer.json`; see `open_tokenizer` for the errors."""
        tokenizers = _import_tokenizers()
        try:
            library = tokenizers.Tokenizer.from_file(str(path))
        except Exception as e:  # the library raises bare Exception
            raise BundleError(
                f"{path} is not a tokenizer the `tokenizers` library reads ({e}). Export the bundle again."
            ) from e
        library.no_truncation()
        library.no_padding()
        if info.do_lower_case and '{"type":"Lowercase"}' not in library.to_str():  # older bundles
            lower = tokenizers.normalizers.Lowercase()
            parts = [lower, library.normalizer] if library.normalizer else [lower]
            library.normalizer = tokenizers.normalizers.Sequence(parts)
        return cls(library, info)

    def encode(self, text: str, max_length: int | None = None, *, allow_special: bool = False) -> list[int]:
        """See `Tokenizer.encode`."""
        checked_text(text)
        checked_limit(max_length)
        if max_length is not None and len(text) > LONG_TEXT:
            ids = self._beginning(text, max_length, allow_special)
        else:
            ids = self._encoding(text, allow_special).ids
        if max_length is not None and len(ids) > max_length:
            ids = [*ids[: max_length - 1], self._eos]
        return ids

    def offsets(self, text: str, *, allow_special: bool = False) -> list[tuple[int, int]]:
        """See `Tokenizer.offsets`."""
        return list(self._encoding(checked_text(text), allow_special).offsets)

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer.decode`."""
        return str(self._library.decode(checked_ids(ids), skip_special_tokens=True))

    def id_to_token(self, token_id: int) -> str:
        """See `Tokenizer.id_to_token`."""
        token = self._library.id_to_token(token_id) if token_id >= 0 else None
        if token is None:
            raise unknown_id(token_id, self._library.get_vocab_size())
        return str(token)

    def _encoding(self, text: str, allow_special: bool) -> Any:
        if allow_special:
            check_rows(text, self._without_row)
        with self._lock:
            self._library.encode_special_tokens = not allow_special
            return self._library.encode(text)

    def _beginning(self, text: str, max_length: int, allow_special: bool) -> list[int]:
        """Ids of enough of `text` to give `max_length`, cut where the rest cannot change them."""
        if self._cuts is None:
            self._cuts = _cuts_before_spaces(self._library)
        size = LONG_TEXT if self._cuts else len(text)
        while (cut := _border(text, size)) < len(text):
            ids: list[int] = self._encoding(text[:cut], allow_special).ids
            if len(ids) >= max_length:
                return ids
            size *= 4
        return list(self._encoding(text, allow_special).ids)


def _border(text: str, start: int) -> int:
    """The first run of spaces from `start` on without other whitespace before it, else the end."""
    cut = text.find(" ", start)
    while cut > 0 and (text[cut - 1].isspace() or text[cut - 1] == "▁"):
        cut = text.find(" ", cut + 1)
    return cut if cut > 0 else len(text)


def _cuts_before_spaces(library: Any) -> bool:
    """Whether ids before a run of spaces do not depend on what follows.

    That is so if no entry joins a space to text before it: then no merge and no added token crosses that
    border, whatever whitespace or word borders the token requires beside it.
    """
    state = json.loads(library.to_str())
    replaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    sigma = {"type": "Replace", "pattern": {"String": "Σ"}, "content": "σ"}
    steps = {"type": "Lowercase"}, replaces
    lowers = [{"type": "Sequence", "normalizers": parts} for parts in ([*steps], [sigma, *steps])]
    vocab = library.get_vocab(with_added_tokens=True)
    crossing = any("▁" in entry.lstrip("▁") or " " in entry for entry in vocab)
    return not crossing and state["model"]["type"] == "BPE" and state["normalizer"] in (replaces, *lowers)


def _import_tokenizers() -> Any:
    try:
        import tokenizers
        import tokenizers.normalizers
    except ImportError as e:
        if isinstance(e.__cause__, KeyboardInterrupt):
            raise KeyboardInterrupt from e
        raise EngineError(
            "This bundle has no compact tokenizer table, so the `tokenizers` library is needed, and it is "
            "not installed. Install it with: pip install tokenizers, or export the bundle with a table."
        ) from e
    return tokenizers
