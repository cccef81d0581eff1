"""A bundle's `tokenizer.json`, read by the `tokenizers` library: where a bundle has no compact table.

The only runtime file that imports `tokenizers`. Knows nothing of the compact table.
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
        self._longest: int | None = None

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
        if info.do_lower_case:
            lower = tokenizers.normalizers.Lowercase()
            parts = [lower, library.normalizer] if library.normalizer else [lower]
            library.normalizer = tokenizers.normalizers.Sequence(parts)
        return cls(library, info)

    def encode(self, text: str, max_length: int | None = None, *, allow_special: bool = False) -> list[int]:
        """See `Tokenizer.encode`."""
        checked_text(text)
        checked_limit(max_length)
        if max_length is not None and len(text) > LONG_TEXT:
            text = text[: self._cut(text, max_length)]
        ids: list[int] = self._encoding(text, allow_special).ids
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

    def _cut(self, text: str, max_length: int) -> int:
        """A length that `text` can be cut to without changing its first `max_length` ids.

        A token covers `longest` characters at most, so the ids asked for lie in the first
        `max_length * longest`. Beyond them a cut before a run of spaces is exact where no vocabulary entry
        joins a space to text before it (no merge can then cross the cut).
        """
        if self._longest is None:
            self._longest = _longest_entry(self._library)
        if self._longest == 0:
            return len(text)
        cut = text.find(" ", max_length * self._longest)
        while cut > 0 and text[cut - 1] in " ▁":
            cut = text.find(" ", cut + 1)
        return cut if cut > 0 else len(text)


def _longest_entry(library: Any) -> int:
    """Characters of the longest entry, or 0 where cutting before spaces is not shown to be exact."""
    state = json.loads(library.to_str())
    replaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    lowers = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, replaces]}
    vocab = library.get_vocab(with_added_tokens=True)
    crossing = any("▁" in entry.lstrip("▁") or " " in entry for entry in vocab)
    plain = all(not (t["normalized"] or t["lstrip"] or t["rstrip"]) for t in state["added_tokens"])
    if (
        crossing
        or not plain
        or state["model"]["type"] != "BPE"
        or state["normalizer"] not in (replaces, lowers)
    ):
        return 0
    return max(map(len, vocab))


def _import_tokenizers() -> Any:
    try:
        import tokenizers
        import tokenizers.normalizers
    except ImportError as e:
        raise EngineError(
            "This bundle has no compact tokenizer table, so the `tokenizers` library is needed, and it is "
            "not installed. Install it with: pip install tokenizers, or export the bundle with a table."
        ) from e
    return tokenizers
