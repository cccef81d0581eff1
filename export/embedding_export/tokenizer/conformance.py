"""Writes texts and their ids, for authors of other readers of the compact table.

The ids come from the `tokenizers` library, not from our reader.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embedding_export.files.tokenizer_file import TokenizerFile
from embedding_export.tokenizer.stress_texts import stress_texts
from embedding_export.tokenizer.table import truncated

FILE = "tokenizer_conformance.jsonl"
_MIXTURES = 200
_MAX_LENGTH = 16


def write_conformance(source: TokenizerFile, out: Path) -> int:
    """Write JSON lines of text, allow_special, max_length (or null), ids, decoded text; returns their number.

    Raises:
        UnsupportedTokenizer, CheckpointError: as `TokenizerFile.pairs`.
    """
    texts = stress_texts(source.pairs, count=_MIXTURES, added=_MIXTURES)
    cases = [json.dumps(case, ensure_ascii=False) for case in _cases(source.library, texts)]
    out.write_text("\n".join(cases) + "\n", encoding="utf-8", newline="\n")
    return len(cases)


def _cases(library: Any, texts: list[str]) -> Iterator[dict[str, object]]:
    for allow_special in (False, True):
        library.encode_special_tokens = not allow_special
        for i, text in enumerate(texts):
            ids = library.encode(text).ids
            length = _MAX_LENGTH if i % 4 == 0 and len(ids) > _MAX_LENGTH else None
            ids = truncated(ids, length, ids[-1])
            decoded = library.decode(ids, skip_special_tokens=True)
            yield {
                "text": text,
                "allow_special": allow_special,
                "max_length": length,
                "ids": ids,
                "decoded": decoded,
            }
