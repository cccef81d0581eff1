"""A checkpoint's `tokenizer.json`, read once: as JSON, as byte pairs, and in the `tokenizers` library.

It differs from the file in three ways. First, special tokens without a row in the embedding table are left
out, because no text can be embedded with them: Gemma's published tokenizer has one (`<image_soft_token>`, one
past the table). Second, only Gemma's own control tokens stay special, which means that they are read as text
unless a caller allows them. Every other token that is flagged as special is a token wherever it stands in a
text, as in sentence-transformers: either its owner added it for that, or saving flagged it (transformers 5.23
does so with `<mask>`). Third, the tokenizer lowers the case of texts if the checkpoint does.
"""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from embedding_export.errors import CheckpointError
from embedding_export.files.json_files import read_json
from embedding_export.files.lower_case import keep_as_written, lowered
from embedding_export.files.tokenizer_json import BytePairs, read_tokenizer

# Control tokens of Gemma 3's tokenizers, by what they are called there; ids differ between models.
CONTROL_TOKENS = frozenset(
    {
        "<pad>",
        "<eos>",
        "<bos>",
        "<unk>",
        "<start_of_turn>",
        "<end_of_turn>",
        "<start_of_image>",
        "<end_of_image>",
        "<image_soft_token>",
    }
)
# Those of Gemma 4's, which EmbeddingGemma 2 has: for media, turns and tools. They are entries of its
# vocabulary; added to another's they are its owner's tokens.
NEWER_CONTROL_TOKENS = frozenset(
    {
        *("<|image|>", "<|audio|>", "<|video|>", "<|image>", "<image|>", "<|audio>", "<audio|>"),
        *("<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>", '<|"|>'),
        *("<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>"),
    }
)
_ABOUT_TOKENS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


@dataclass(frozen=True, eq=False)
class TokenizerFile:
    """A tokenizer.json, without the special tokens `without_row` (as spelled); `lower` is do_lower_case.

    The parsed file stays in memory (0.6 GB for Gemma's) until `release`.
    """

    path: Path
    without_row: tuple[str, ...] = ()
    lower: bool = False
    _replacement: dict[str, Any] | None = field(default=None, repr=False)

    @classmethod
    def read(cls, path: Path, rows: int | None = None, *, lower: bool = False) -> "TokenizerFile":
        """Read a `tokenizer.json` whose ids must fit an embedding table of `rows` rows (None: not checked).

        Raises:
            CheckpointError: a damaged file, another kind of model than BPE, or ids beyond the table that a
                text can reach: those of vocabulary entries, or of added tokens that are not special.
        """
        file = cls(path, lower=lower)
        try:
            result = file if rows is None else file._fitted(rows)
            _ = result.control_tokens, result.owner_tokens, result.is_changed  # small, kept after `release`
            return result
        except (KeyError, TypeError, AttributeError, ValueError) as e:
            raise CheckpointError(f"{path} is not a tokenizer's file ({e!r}). Fetch it again.") from e

    @classmethod
    def of(cls, data: dict[str, Any], path: Path, *, lower: bool = False) -> "TokenizerFile":
        """A tokenizer made from JSON; messages call it `path`."""
        return cls(path, (), lower, data)

    @cached_property
    def data(self) -> dict[str, Any]:
        """The JSON without tokens that have no row; only control tokens are special; lowers if `lower`."""
        added = [t | {"special": self._is_control(t)} for t in self._kept_tokens()]
        data = self._read() | {"added_tokens": added}
        return data | {"normalizer": lowered(data.get("normalizer"))} if self.lower else data

    @cached_property
    def pairs(self) -> BytePairs:
        """The tokenizer as a compact table needs it.

        Raises:
            UnsupportedTokenizer, CheckpointError: as `read_tokenizer`.
        """
        return read_tokenizer(self.data, self.path, lower=self.lower)

    @cached_property
    def library(self) -> Any:
        """A `tokenizers.Tokenizer`: the oracle. `encode_special_tokens` is set before each use.

        Raises:
            CheckpointError: the library refuses it.
        """
        from tokenizers import Tokenizer

        try:
            library = (
                Tokenizer.from_str(self.text) if self.is_changed else Tokenizer.from_file(str(self.path))
            )
        except Exception as e:  # the library raises bare Exception
            raise CheckpointError(f"{self.path} is refused by the tokenizers library ({e}).") from e
        library.no_truncation()
        library.no_padding()
        return library

    @cached_property
    def control_tokens(self) -> tuple[str, ...]:
        """The tokens that are text unless a caller allows them, as spelled, including those without a row."""
        return (*(t["content"] for t in self.data["added_tokens"] if t["special"]), *self.without_row)

    @property
    def added_tokens(self) -> tuple[str, ...]:
        """All added tokens, as spelled; including those without a row."""
        return (*(t["content"] for t in self.data["added_tokens"]), *self.without_row)

    @cached_property
    def owner_tokens(self) -> tuple[str, ...]:
        """Tokens added to the base model's, or flagged special without being control tokens."""
        vocab = self._read()["model"]["vocab"]
        return tuple(
            t["content"]
            for t in self._kept_tokens()
            if not self._is_control(t) and (t["special"] or t["content"] not in vocab)
        )

    @property
    def text(self) -> str:
        """`data` as a JSON document."""
        return json.dumps(self.data, ensure_ascii=False)

    @cached_property
    def is_changed(self) -> bool:
        """Whether `data` differs from the file."""
        is_replaced = self._replacement is not None or self.lower
        return is_replaced or self.data["added_tokens"] != self._read().get("added_tokens")

    def client_json(self, source: Path) -> str | None:
        """The text that other clients get in place of one of the checkpoint's files: `data`, or the file
        without the tokens that have no row.

        None if the file stays as it is, and "" if nothing of it is left.
        """
        if source.name == "tokenizer.json":
            return self.text if self.is_changed else None
        if source.name not in _ABOUT_TOKENS or not (self.without_row or self.lower):
            return None
        left = _without(json.loads(source.read_text(encoding="utf-8")), frozenset(self.without_row))
        if self.lower and source.name == "tokenizer_config.json":
            left = keep_as_written(left)
        return json.dumps(left, indent=2, ensure_ascii=False) + "\n" if left else ""

    def release(self) -> None:
        """Release the memory of the parsed file; it is read again when needed."""
        for name in ("data", "pairs", "library", "_parsed"):
            self.__dict__.pop(name, None)

    @cached_property
    def _parsed(self) -> dict[str, Any]:
        data = read_json(self.path)
        if not isinstance(data, dict):
            raise CheckpointError(f"{self.path} is not a tokenizer's file. Fetch it again.")
        return data

    def _read(self) -> dict[str, Any]:
        return self._parsed if self._replacement is None else self._replacement

    def _kept_tokens(self) -> list[dict[str, Any]]:
        return [t for t in self._read().get("added_tokens") or [] if t["content"] not in self.without_row]

    def _is_control(self, token: dict[str, Any]) -> bool:
        content = token["content"]
        newer = content in NEWER_CONTROL_TOKENS and content in self._read()["model"]["vocab"]
        return token["special"] and (newer or content in CONTROL_TOKENS or content in self._ends)

    @cached_property
    def _ends(self) -> frozenset[str]:
        """The tokens that the template puts around a text, and the unknown token."""
        template = self._read().get("post_processor") or {}
        return frozenset({*template.get("special_tokens", {}), self._read()["model"].get("unk_token")})

    def _fitted(self, rows: int) -> "TokenizerFile":
        model = self._read()["model"]
        if model["type"] != "BPE":
            raise CheckpointError(
                f"{self.path}: the tokenizer is of type {model['type']}; expected BPE, as Gemma's is."
            )
        largest = max(model["vocab"].values())
        beyond = [t for t in self._read().get("added_tokens") or [] if t["id"] >= rows]
        reached = (t["id"] for t in beyond if not t.get("special") or t["content"] in self._ends)
        largest = max([largest, *reached])
        if largest >= rows:
            raise CheckpointError(
                f"{self.path} has ids up to {largest}, but the embedding table has {rows} rows. Tokens were "
                "added without resizing the model: use the tokenizer the model was trained with."
            )
        fitted = TokenizerFile(self.path, tuple(t["content"] for t in beyond), self.lower)
        fitted.__dict__["_parsed"] = self._parsed
        return fitted


def _without(value: Any, tokens: frozenset[str]) -> Any:
    """JSON without the parts that name one of `tokens`: as a key, a value, or an object's content."""

    def names(key: str | None, item: Any) -> bool:
        content = item.get("content") if isinstance(item, dict) else item
        return key in tokens or (isinstance(content, str) and content in tokens)

    if isinstance(value, dict):
        return {k: _without(v, tokens) for k, v in value.items() if not names(k, v)}
    if isinstance(value, list):
        return [_without(v, tokens) for v in value if not names(None, v)]
    return value
