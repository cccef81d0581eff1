"""Reads from `tokenizer.json` the figures that a compact table needs, or refuses what it cannot reproduce.

A refusal names the setting. `tokenizer.sections` lays the figures out.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedding_export.errors import CheckpointError
from embedding_export.files.lower_case import lowered
from embedding_runtime.tokenizers import unicode_lower

SPACE = "▁"
LARGEST_VOCABULARY = (1 << 21) - 1
LARGEST_MERGES = (1 << 22) - 1
_NORMALIZER = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_DECODER = [
    {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]
_ADDED_OPTIONS = ("single_word", "lstrip", "rstrip")
BYTES = tuple(f"<0x{i:02X}>" for i in range(256))


class UnsupportedTokenizer(CheckpointError):
    """A tokenizer that the compact table does not reproduce; the message says why."""


@dataclass(frozen=True)
class AddedEntry:
    """A token that is searched for before merging; `special` marks control tokens.

    If `normalized`, it is searched for in the normalized text between tokens of the raw text; `pattern` is
    the string searched for.
    """

    content: str
    token_id: int
    special: bool
    normalized: bool
    pattern: str


@dataclass(frozen=True)
class BytePairs:
    """A byte-fallback BPE tokenizer: `pieces[id]` are all entries, added ones included.

    `vocab` holds the model's own entries; `merges` are (left, right, result) ids, in order of rank.
    """

    pieces: tuple[str, ...]
    vocab: dict[str, int]
    merges: list[tuple[int, int, int]]
    added: tuple[AddedEntry, ...]
    bos_id: int
    eos_id: int


def read_tokenizer(data: dict[str, Any], path: Path, *, lower: bool = False) -> BytePairs:
    """Check and convert the JSON of the `tokenizers` library's `tokenizer.json`; messages name `path`.

    If `lower`, its normalizer must be one that lowers first (`lower_case.lowered`).

    Raises:
        UnsupportedTokenizer: it has a model, normalizer, pre-tokenizer, template, decoder or added-token
            option that the compact table does not reproduce.
        CheckpointError: not readable as a tokenizer.
    """
    try:
        return parse_tokenizer(data, lower=lower)
    except UnsupportedTokenizer as e:
        raise UnsupportedTokenizer(f"{path}: {e}") from e
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise CheckpointError(
            f"{path} is not a tokenizer.json that this version reads ({type(e).__name__}: {e}). Save the "
            "tokenizer again with transformers' save_pretrained."
        ) from e


def parse_tokenizer(data: dict[str, Any], *, lower: bool = False) -> BytePairs:
    """Check and convert the parsed JSON; see `read_tokenizer`."""
    _check_model(data["model"])
    _check_steps(data, lower)
    vocab: dict[str, int] = data["model"]["vocab"]
    added = tuple(_added_entry(a, vocab, lower) for a in data["added_tokens"])
    _check_patterns(added, lower)
    pieces = _pieces(vocab, added)
    bos_id, eos_id = _ends(data["post_processor"])
    merges = _merges(data["model"]["merges"], vocab)
    return BytePairs(pieces, vocab, merges, added, bos_id, eos_id)


def _require(actual: Any, expected: Any, what: str) -> None:
    if actual != expected:
        shown = json.dumps(actual, ensure_ascii=False)[:200]
        supported = json.dumps(expected, ensure_ascii=False)
        raise UnsupportedTokenizer(f"its {what} is {shown}; the compact table reproduces only {supported}.")


def _check_model(model: dict[str, Any]) -> None:
    _require(model["type"], "BPE", "model")
    _require(model.get("byte_fallback"), True, "byte_fallback")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"):
        if model.get(name):  # null, "", 0 and false all mean: not used
            _require(model[name], None, name)
    missing = [b for b in (*BYTES, SPACE) if b not in model["vocab"]]
    _require(missing, [], "list of missing byte entries (and ▁)")


def _check_steps(data: dict[str, Any], lower: bool) -> None:
    _require(data["normalizer"], lowered(_NORMALIZER) if lower else _NORMALIZER, "normalizer")
    before = data["pre_tokenizer"]
    if before is not None:  # splitting at spaces never happens: the normalizer has replaced them
        _require(before.get("type"), "Split", "pre-tokenizer")
        _require(before.get("pattern"), {"String": " "}, "pre-tokenizer's pattern")
        _require(before.get("invert"), False, "pre-tokenizer's invert")
    _require(data["decoder"], {"type": "Sequence", "decoders": _DECODER}, "decoder")


def _added_entry(token: dict[str, Any], vocab: dict[str, int], lower: bool) -> AddedEntry:
    content, token_id = token["content"], token["id"]
    for option in _ADDED_OPTIONS:
        _require(token[option], False, f"added token {content!r}'s option {option}")
    _require(vocab.get(content, token_id), token_id, f"added token {content!r}'s entry in the vocabulary")
    _require(content == "", False, "list of added tokens' emptiness")
    normal = (unicode_lower.lower(content) if lower else content).replace(" ", SPACE)
    normalized = token["normalized"]
    return AddedEntry(content, token_id, token["special"], normalized, normal if normalized else content)


def _check_patterns(added: tuple[AddedEntry, ...], lower: bool) -> None:
    patterns = Counter(a.pattern for a in added)
    _require([p for p, n in patterns.items() if n > 1], [], "list of added tokens that look alike")
    if lower and any(a.normalized for a in added):  # the runtime takes İ apart before it looks for them
        split = [a.content for a in added if not a.normalized and set(a.content) & set("İ\u0307")]
        _require(split, [], "list of added tokens with İ or its dot")


def _pieces(vocab: dict[str, int], added: tuple[AddedEntry, ...]) -> tuple[str, ...]:
    by_id = {token_id: piece for piece, token_id in vocab.items()}
    by_id |= {a.token_id: a.pattern for a in added if a.content not in vocab}  # as the library decodes them
    entries = len(vocab) + sum(a.content not in vocab for a in added)
    if len(by_id) != entries or sorted(by_id) != list(range(entries)) or entries > LARGEST_VOCABULARY:
        raise UnsupportedTokenizer(
            f"its {entries} entries have ids from {min(by_id)} to {max(by_id)}; the compact table needs "
            f"every id from 0 on exactly once, and at most {LARGEST_VOCABULARY} of them."
        )
    return tuple(by_id[i] for i in range(entries))


def _ends(template: dict[str, Any]) -> tuple[int, int]:
    """Ids of `<bos>` and `<eos>`, which enclose the text."""
    _require(template["type"], "TemplateProcessing", "post-processor")
    single = [next(iter(step.items())) for step in template["single"]]
    _require([kind for kind, _ in single], ["SpecialToken", "Sequence", "SpecialToken"], "template")
    ids = [template["special_tokens"][single[i][1]["id"]]["ids"] for i in (0, 2)]
    _require([len(i) for i in ids], [1, 1], "template's number of ids per control token")
    return ids[0][0], ids[1][0]


def _merges(merges: list[Any], vocab: dict[str, int]) -> list[tuple[int, int, int]]:
    pairs = (tuple(m.split(" ")) if isinstance(m, str) else m for m in merges)
    joined = [(vocab[left], vocab[right], vocab[left + right]) for left, right in pairs]
    ranks = {(left, right): rank for rank, (left, right, _) in enumerate(joined)}
    _require(len(joined) - len(ranks), 0, "number of repeated merges")
    byte_ids = {vocab[b] for b in BYTES}
    byte_merge = next((m for m in joined if m[0] in byte_ids or m[1] in byte_ids), None)
    _require(byte_merge, None, "merge of a byte entry")
    _require(len(joined) <= LARGEST_MERGES, True, f"number of merges being at most {LARGEST_MERGES}")
    return joined
