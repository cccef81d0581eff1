"""Text → token ids: the interface of a tokenizer, and the one function that opens a bundle's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from embedding_runtime.bundle import TokenizerInfo
from embedding_runtime.errors import BundleError

Span = tuple[int, int]


class Tokenizer(Protocol):
    """Encodes one text at a time; a result never depends on earlier calls."""

    def encode(self, text: str, max_length: int | None = None, *, allow_special: bool = False) -> list[int]:
        """Token ids of `text`, `<bos>` first and `<eos>` last.

        At most `max_length` ids, both control tokens counted: the text is cut on the right, `<eos>` stays.
        Control tokens spelled out in the text are read as text unless `allow_special`.

        Raises:
            InputTypeError: `text` is not a str.
            InputError: a lone surrogate in `text`, `max_length` below 2, or, if `allow_special`, a special
                token that the model has no row for.
        """
        ...

    def offsets(self, text: str, *, allow_special: bool = False) -> list[Span]:
        """For every id of `encode(text)`, the characters it stands for: `text[start:stop]`.

        `<bos>` and `<eos>` have (0, 0); the byte tokens of one character all have that character's span.
        """
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; control tokens are left out, bytes that are not UTF-8 become U+FFFD."""
        ...

    def id_to_token(self, token_id: int) -> str:
        """The vocabulary's entry, e.g. `▁planet`.

        Raises:
            InputError: there is no such id.
        """
        ...


def open_tokenizer(bundle: Path, info: TokenizerInfo, *, verify: bool = True) -> Tokenizer:
    """Open the tokenizer file that `info` names: `*.table` is the compact table, `*.json` is read by the
    `tokenizers` library.

    `verify` compares a table with its own checksums, which means reading all of it; a caller that has just
    compared the file with the manifest's SHA-256 (or its stamp) can do without.

    Raises:
        BundleError: the file is missing, damaged, or of a kind this version does not know.
        EngineError: the `tokenizers` library is needed and not installed.
    """
    path = bundle / info.file
    if not path.is_file():
        raise BundleError(f"{path} is missing. The bundle is incomplete: copy or export it again.")
    if path.suffix == ".table":
        from embedding_runtime.tokenizers.table import TableTokenizer

        return TableTokenizer.open(path, info, verify=verify)
    if path.suffix == ".json":
        from embedding_runtime.tokenizers.library import LibraryTokenizer

        return LibraryTokenizer.open(path, info)
    raise BundleError(
        f"{path} is not a tokenizer that this version knows (expected *.table or *.json). "
        "Upgrade embedding-edge, or export the bundle again."
    )
