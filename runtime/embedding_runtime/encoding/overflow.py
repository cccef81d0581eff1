"""Truncates, splits or refuses a text that is longer than the model reads; works on token ids."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.errors import InputError
from embedding_runtime.tokenizers.tokenizer import Tokenizer

Overflow = Literal["truncate", "error", "chunk"]
POLICIES: tuple[Overflow, ...] = ("truncate", "error", "chunk")

# A chunk is good enough when this much of the room is used: each further probe tokenizes it once more.
_FULL_ENOUGH = 0.8


class Request(NamedTuple):
    """A text and the prompt that goes before it."""

    prompt: str
    text: str


class Pieces(NamedTuple):
    """Token ids of a text's pieces, and whether the text was longer than `max_length` tokens.

    The first `unpooled` tokens of each piece, which are the prompt's, are left out of the mean.
    """

    ids: list[NDArray[np.int32]]
    long: bool
    unpooled: int = 0


@dataclass(frozen=True)
class Cutter:
    """Turns texts into token ids of at most `max_length`, `<bos>` and `<eos>` included.

    `include_prompt` says whether the model averages over a prompt's tokens.
    """

    tokenizer: Tokenizer
    max_length: int
    overflow: Overflow
    allow_special: bool
    include_prompt: bool = True
    _prompts: dict[str, int] = field(default_factory=dict)

    def pieces(self, request: Request) -> Pieces:
        """Token ids of one request.

        Raises:
            InputError: the text is too long and the policy is "error", or the prompt leaves no room to chunk.
                The caller prefixes the message with its subject.
        """
        pieces = self._pieces(request)
        if self.include_prompt or not request.prompt:
            return pieces
        if request.prompt not in self._prompts:  # as the reference counts: all of the prompt alone but <eos>
            alone = min(len(self._encode(request.prompt)), self.max_length)
            self._prompts[request.prompt] = alone - 1
        return pieces._replace(unpooled=self._prompts[request.prompt])

    def _pieces(self, request: Request) -> Pieces:
        ids = self._encode(request.prompt + request.text)
        if len(ids) <= self.max_length:
            return Pieces([np.array(ids, dtype=np.int32)], long=False)
        if self.overflow == "error":
            raise InputError(
                f"has more than the {self.max_length} tokens that the model reads, its prompt included. "
                'Shorten it, or choose the overflow policy "truncate" or "chunk".'
            )
        if self.overflow == "truncate":
            # Truncation keeps <eos>: of one token too many it drops the one before it.
            return Pieces([np.array([*ids[: self.max_length - 1], ids[-1]], dtype=np.int32)], long=True)
        return Pieces(self._chunks(request), long=True)

    def _encode(self, text: str) -> list[int]:
        """Ids, at most one more than fits, so that an overflow can be recognized."""
        return self.tokenizer.encode(text, self.max_length + 1, allow_special=self.allow_special)

    def _chunks(self, request: Request) -> list[NDArray[np.int32]]:
        if not request.text:
            raise self._no_room()
        pieces, start, guess = [], 0, 4 * self.max_length
        while start < len(request.text):
            stop, ids = self._chunk(request, start, guess)
            pieces.append(np.array(ids, dtype=np.int32))
            start, guess = stop, max(1, stop - start)
        return pieces

    def _chunk(self, request: Request, start: int, guess: int) -> tuple[int, list[int]]:
        """End and ids of a chunk from `start` that fits, found by bisection of its length."""
        text, fits, over = request.text, 0, len(request.text) - start + 1
        ids: list[int] = []
        size = min(guess, over - 1)
        while fits < over - 1 and len(ids) < _FULL_ENOUGH * self.max_length:
            token_ids = self._encode(request.prompt + text[start : start + size])
            if len(token_ids) > self.max_length:
                over = size
            else:
                fits, ids = size, token_ids
            if over == 1:
                raise self._no_room()
            size = max(fits + 1, min((fits + over) // 2, 2 * fits or over))
        return self._at_space(request, start, fits, ids)

    def _no_room(self) -> InputError:
        return InputError(
            f"cannot be chunked: its prompt leaves no room in {self.max_length} tokens. Shorten the prompt, "
            "or raise max_seq_length."
        )

    def _at_space(self, request: Request, start: int, size: int, ids: list[int]) -> tuple[int, list[int]]:
        """Move the cut back to a space in the last quarter of the chunk, if there is one."""
        text, stop = request.text, start + size
        if stop == len(text) or text[stop].isspace():
            return stop, ids
        space = max(text.rfind(mark, stop - size // 4, stop) for mark in (" ", "\n", "\t"))
        if space <= start:
            return stop, ids
        shorter = self._encode(request.prompt + text[start:space])
        return (space, shorter) if len(shorter) <= self.max_length else (stop, ids)
