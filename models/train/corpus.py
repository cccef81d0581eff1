"""Data sets of pairs as token ids in memory, and batches of them; knows nothing of models.

Every text is kept in two forms: as it is encoded on its own, and as it is encoded after a prompt (whose last
space becomes part of the first word).
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, normalizers

from train.pairs import Pair, read_pairs

Ids = NDArray[np.uint16]
Ints = NDArray[np.int64]

LONGEST = 96


@dataclass(frozen=True)
class Texts:
    """n texts one after the other: `ids` [total], `starts` [n + 1], and a hash of each text [n]."""

    ids: Ids
    starts: Ints
    keys: Ints

    def take(self, rows: Ints) -> tuple[Ints, Ints]:
        """Ids of the texts in `rows`, joined, and the length of each."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        shift = np.repeat(self.starts[rows] - np.concatenate([[0], lengths.cumsum()[:-1]]), lengths)
        return self.ids[np.arange(lengths.sum()) + shift].astype(np.int64), lengths


@dataclass(frozen=True)
class Column:
    """One side of the pairs, in both forms."""

    plain: Texts
    prompted: Texts


@dataclass(frozen=True)
class DataSet:
    """Pairs as ids; `negative` only where the data set has hard negatives (empty texts among them)."""

    name: str
    left: Column
    right: Column
    negative: Column | None

    def __len__(self) -> int:
        return len(self.left.plain.keys)


def lower_case(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer as sentence-transformers runs it for `do_lower_case`."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.normalizer = normalizers.Sequence([normalizers.Lowercase(), copy.normalizer])
    return copy


def load(name: str, file: Path, tokenizer: Tokenizer, cache: Path) -> DataSet:
    """The data set of a file of pairs; encoded once, then read from `cache`."""
    if not cache.exists():
        pairs = list(read_pairs(file))
        part = cache.with_suffix(".part.npz")
        np.savez(part, allow_pickle=False, **_arrays(pairs, lower_case(tokenizer)))
        part.rename(cache)
    with np.load(cache) as held:
        columns = {side: _column(held, side) for side in Pair._fields if f"{side}.plain.ids" in held}
    return DataSet(name, columns["left"], columns["right"], columns.get("negative"))


def encode(texts: Iterable[str], tokenizer: Tokenizer) -> Texts:
    """Encode texts without the control tokens around them, cut after 96 tokens."""
    listed = list(texts)
    ids = [e.ids[:LONGEST] for e in tokenizer.encode_batch_fast(listed, add_special_tokens=False)]
    starts = np.concatenate([[0], np.cumsum([len(i) for i in ids])])
    flat = np.fromiter(chain.from_iterable(ids), dtype=np.uint16, count=int(starts[-1]))
    keys = np.array([zlib.crc32(t.lower().encode()) for t in listed], dtype=np.int64)
    return Texts(flat, starts.astype(np.int64), keys)


def _arrays(pairs: list[Pair], tokenizer: Tokenizer) -> dict[str, NDArray[np.generic]]:
    arrays: dict[str, NDArray[np.generic]] = {}
    for i, side in enumerate(Pair._fields):
        column = [pair[i] for pair in pairs]
        if side != "negative" or any(column):
            forms = {"plain": column, "prompted": [f" {text}" for text in column]}
            for form, listed in forms.items():
                texts = encode(listed, tokenizer)
                arrays |= {f"{side}.{form}.ids": texts.ids, f"{side}.{form}.starts": texts.starts}
                arrays[f"{side}.{form}.keys"] = texts.keys
    return arrays


def _column(held: "np.lib.npyio.NpzFile", side: str) -> Column:
    forms = (
        Texts(held[f"{side}.{form}.ids"], held[f"{side}.{form}.starts"], held[f"{side}.{form}.keys"])
        for form in ("plain", "prompted")
    )
    return Column(*forms)
