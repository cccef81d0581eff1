"""Texts in, vectors out, in flat memory: windows of texts, sorted by length, batched, put back in order."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.encoding.inputs import check_encodable
from embedding_runtime.encoding.overflow import Cutter, Pieces, Request
from embedding_runtime.engines.padding import pad
from embedding_runtime.engines.registry import Session
from embedding_runtime.errors import EmbeddingError, EngineError, InputError
from embedding_runtime.vectors import Floats, l2_normalize, truncate, weighted_mean

# Padded tokens per run of the engine: beyond about a thousand the rate does not grow, only the memory.
TOKEN_BUDGET = 4096
# A window holds this many batches, or this many characters, whichever is reached first.
WINDOW_BATCHES = 32
WINDOW_CHARACTERS = 4_000_000


@dataclass(frozen=True)
class Settings:
    """How to encode: `dim` None keeps all components; `hidden` adds token vectors.

    If `strict`, the first bad text raises; otherwise each becomes an entry of `Window.errors`, by its index.
    """

    batch_size: int = 32
    dim: int | None = None
    normalize: bool = False
    renormalize_chunks: bool = True
    hidden: bool = False
    strict: bool = True


@dataclass(frozen=True)
class Window:
    """Results for texts `start`, `start + 1`, ... in their order; vectors float32 (N, dim), NaN for failed
    texts.

    `tokens` counts the tokens that were run; `long` marks texts that had more than fit; `ids` and `hidden`
    (float32 (S, H) per text) are filled if `Settings.hidden`; `last` says that the texts ended before the
    window was full.
    """

    start: int
    vectors: Floats
    tokens: NDArray[np.int64]
    long: NDArray[np.bool_]
    last: bool = False
    errors: dict[int, EmbeddingError] = field(default_factory=dict)
    ids: list[NDArray[np.int32]] = field(default_factory=list)
    hidden: list[Floats] = field(default_factory=list)


class _Prepared(NamedTuple):
    """A window that has been tokenized."""

    start: int
    pieces: list[Pieces]
    errors: dict[int, EmbeddingError]
    last: bool


@dataclass(frozen=True)
class Stream:
    """An engine, a cutter that turns texts into ids, and the id that pads them."""

    session: Session
    cutter: Cutter
    pad_id: int
    embedding_dim: int

    def windows(self, requests: Iterable[Request], settings: Settings) -> Iterator[Window]:
        """Encode requests, window after window: each is read and tokenized while the previous one runs.

        Requests are read in the caller's thread, the engine is called from a worker.

        Raises:
            EmbeddingError: a bad text (see `Settings.strict`), or the engine failed.
        """
        start, running = 0, None
        with ThreadPoolExecutor(1) as worker:
            for requested, last in _windows(iter(requests), settings.batch_size * WINDOW_BATCHES):
                prepared = self._prepare(requested, start, settings.strict, last)
                start += len(requested)
                before = running.result() if running else None
                running = None if last else worker.submit(self._finish, prepared, settings)
                if before:
                    yield before
                if last:
                    yield self._finish(prepared, settings)
            if running:
                yield running.result()

    def _prepare(self, requests: list[Request], start: int, strict: bool, last: bool) -> _Prepared:
        errors: dict[int, EmbeddingError] = {}
        pieces = [self._pieces(r, start + i, strict, errors) for i, r in enumerate(requests)]
        return _Prepared(start, pieces, errors, last)

    def pieces(self, request: Request) -> Pieces:
        """Token ids of one request, checked.

        Raises:
            InputError: it cannot be encoded; the caller prefixes the message with its subject.
        """
        check_encodable(request.text)
        check_encodable(request.prompt)
        pieces = self.cutter.pieces(request)
        for ids in pieces.ids:
            self.session.check_ids(ids)
        return pieces

    def _pieces(
        self, request: Request, index: int, strict: bool, errors: dict[int, EmbeddingError]
    ) -> Pieces:
        try:
            return self.pieces(request)
        except InputError as e:
            if strict:
                raise InputError(f"inputs[{index}] {e}") from e
            errors[index] = e
            return Pieces([], long=False)

    def _finish(self, prepared: _Prepared, settings: Settings) -> Window:
        pieces = prepared.pieces
        sequences = [ids for piece in pieces for ids in piece.ids]
        unpooled = [piece.unpooled for piece in pieces for _ in piece.ids]
        vectors, hidden = self.run(sequences, unpooled, settings)
        tokens = np.array([sum(len(ids) for ids in piece.ids) for piece in pieces], dtype=np.int64)
        long = np.array([piece.long for piece in pieces], dtype=np.bool_)
        vectors = finished(vectors, pieces, settings)
        ids = sequences if settings.hidden else []
        return Window(prepared.start, vectors, tokens, long, prepared.last, prepared.errors, ids, hidden)

    def run(
        self, sequences: list[NDArray[np.int32]], unpooled: list[int], settings: Settings
    ) -> tuple[Floats, list[Floats]]:
        """Vectors (N, D) and, if requested, token vectors of each sequence, in the given order.

        The first `unpooled` tokens of a sequence have 2 in the mask.

        Raises:
            EngineError: the engine failed, or gave a vector that is not finite.
        """
        lengths = np.array([len(s) for s in sequences], dtype=np.int64)
        vectors = np.empty((len(sequences), self.embedding_dim), dtype=np.float32)
        hidden: list[Floats] = [np.empty(0, dtype=np.float32)] * (len(sequences) if settings.hidden else 0)
        outputs = ("sentence_embedding", "last_hidden_state")[: 2 if settings.hidden else 1]
        for rows in batches(lengths, settings.batch_size):
            ids, mask = pad([sequences[r] for r in rows], self.pad_id)
            for place, row in enumerate(rows):
                mask[place, : unpooled[row]] *= 2
            results = self.session.run(ids, mask, outputs)
            if results[0].shape != (len(rows), self.embedding_dim):
                raise EngineError(
                    f"The graph gave vectors of shape {results[0].shape}; the manifest says "
                    f"{(len(rows), self.embedding_dim)}. Export the bundle again."
                )
            vectors[rows] = results[0]
            for place, row in enumerate(rows if settings.hidden else ()):
                hidden[row] = results[1][place, : lengths[row]].copy()
        if not np.isfinite(vectors).all():
            raise EngineError(
                "The graph gave a vector that is not finite. Check the bundle with validate-embedding before "
                "you use it."
            )
        return vectors, hidden


def finished(vectors: Floats, pieces: list[Pieces], settings: Settings) -> Floats:
    """One vector per text (N, dim), with the requested dimension, from the vectors of all its sequences."""
    if any(len(piece.ids) != 1 for piece in pieces):
        vectors = _merge(vectors, pieces, settings)
    vectors = truncate(vectors, settings.dim)
    return l2_normalize(vectors) if settings.normalize else vectors


def batches(lengths: NDArray[np.int64], batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Row numbers, longest first, in groups of at most `batch_size` rows and `TOKEN_BUDGET` padded tokens."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, min(batch_size, TOKEN_BUDGET // max(1, int(lengths[order[start]]))))
        yield order[start : start + size]
        start += size


def _windows(requests: Iterator[Request], most: int) -> Iterator[tuple[list[Request], bool]]:
    """Requests in lists, each with whether it is known to be the last, which is so if it is not full."""
    last = False
    while not last:
        window: list[Request] = []
        characters = 0
        while characters < WINDOW_CHARACTERS and len(window) < most and not last:
            following = next(requests, None)
            if following is None:
                last = True
            else:
                window.append(following)
                characters += len(following.text)
        if window:
            yield window, last


def _merge(vectors: Floats, pieces: list[Pieces], settings: Settings) -> Floats:
    """One vector per text: the token-weighted mean of its pieces' vectors, NaN for a text without pieces."""
    merged = np.full((len(pieces), vectors.shape[1]), np.nan, dtype=np.float32)
    start = 0
    for row, piece in enumerate(pieces):
        stop = start + len(piece.ids)
        if len(piece.ids) == 1:
            merged[row] = vectors[start]
        elif piece.ids:
            mean = weighted_mean(vectors[start:stop], [len(ids) for ids in piece.ids])
            merged[row] = l2_normalize(mean) if settings.renormalize_chunks else mean
        start = stop
    return merged
