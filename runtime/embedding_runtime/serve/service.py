"""One worker: takes requests and gives answers, within limits. `command` starts it and opens its socket."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from embedding_runtime.encoding.overflow import Pieces
from embedding_runtime.encoding.overflow import Request as TextRequest
from embedding_runtime.errors import EmbeddingError, InputError
from embedding_runtime.serve import metrics
from embedding_runtime.serve.answers import Paced, spell
from embedding_runtime.serve.batching import Batcher, Job
from embedding_runtime.serve.bodies import check_headers, read_body
from embedding_runtime.serve.failures import (
    CLIENT_GONE,
    ServiceError,
    busy,
    refused,
    shaped,
    too_large,
)
from embedding_runtime.serve.model import Model
from embedding_runtime.serve.parameters import Parameters, read
from embedding_runtime.serve.settings import Settings
from embedding_runtime.vectors import Floats

# Reading JSON and cutting texts into tokens hold Python's lock: more threads would not be faster.
_READERS = 2
# Of every answer with vectors: what `check_space` reads, as JSON.
STAMP_HEADER = "Embedding-Stamp"

_Result = TypeVar("_Result")
_logger = logging.getLogger(__name__)


class _Room:
    """The share of the service's room that one request holds."""

    def __init__(self, service: "Service") -> None:
        self._service = service
        self._bytes = self._texts = 0

    def reserve_bytes(self, more: int) -> None:
        """Reserve room for bytes of a body.

        Raises:
            ServiceError: 503, there is no room.
        """
        service = self._service
        if service.held_bytes + more > service.limits.held:
            raise busy("Too many large requests are being read. Try again soon.")
        service.held_bytes += more
        self._bytes += more

    def reserve_texts(self, more: int) -> None:
        """Reserve places in the queue.

        Raises:
            ServiceError: 503, there is no room.
        """
        service = self._service
        if service.held_texts + more > service.limits.queue:
            raise busy(f"{service.held_texts} of at most {service.limits.queue} texts wait. Try again soon.")
        service.held_texts += more
        self._texts += more
        metrics.UNANSWERED.inc(more)

    def give_back_bytes(self) -> None:
        """Release the body's bytes."""
        self._service.held_bytes -= self._bytes
        self._bytes = 0

    def give_back(self) -> None:
        """Release everything that the request holds."""
        self.give_back_bytes()
        self._service.held_texts -= self._texts
        metrics.UNANSWERED.dec(self._texts)
        self._texts = 0


class Service:
    """An opened bundle, the queue before its engine, and the room that requests under way hold.

    It is an ASGI application for POST /v1/embeddings only.
    """

    def __init__(self, settings: Settings) -> None:
        """Open the bundle.

        Raises:
            BundleError, EngineError, InputError: as `Embedder`.
        """
        self.limits = settings.limits
        self.model = Model(settings)
        self.batcher = Batcher(self.model.run, settings.batch_size, metrics.note_batch)
        self.held_bytes = self.held_texts = 0
        self._pool = ThreadPoolExecutor(_READERS, thread_name_prefix="reader")

    def close(self) -> None:
        """End the engine's thread and the readers."""
        self.batcher.close()
        self._pool.shutdown()

    @property
    def full(self) -> bool:
        """Whether a text that comes now would be refused."""
        return self.held_texts >= self.limits.queue or self.held_bytes >= self.limits.held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, valid or not."""
        started, until = time.monotonic(), asyncio.get_running_loop().time() + self.limits.seconds
        request, room, status = Request(scope, receive), _Room(self), 500
        try:
            answer = await self._answer(request, room, until)
            status = answer.status_code
            await answer(scope, receive, send)
        except ClientDisconnect:
            status = CLIENT_GONE
        except TimeoutError:  # of sending: the connection is closed, which tells a client that reads on
            status = CLIENT_GONE
        finally:
            room.give_back()
            metrics.note_request(status, time.monotonic() - started)

    async def _answer(self, request: Request, room: _Room, until: float) -> Response:
        try:
            parameters, pieces = await self._read(request, room, until)
            vectors = await self._vectors(request, pieces, until)
            body = await self._in_pool(self._spell, parameters, vectors, pieces)
            return Paced(body, until, {STAMP_HEADER: self.model.stamp(parameters.prompt, parameters.dim)})
        except ServiceError as e:
            return failure(e)
        except EmbeddingError as e:
            _logger.error("%s", e)
            return failure(ServiceError(500, str(e), code="engine_failed"))

    async def _read(self, request: Request, room: _Room, until: float) -> tuple[Parameters, list[Pieces]]:
        """The parameters of a request, and the token ids of all its texts."""
        check_headers(request)
        body = await read_body(request, self.limits.body, room.reserve_bytes, until)
        parameters = await self._in_pool(read, body, self.model, self.limits)
        room.reserve_texts(len(parameters.inputs))
        pieces = await self._in_pool(self._pieces, parameters)
        room.give_back_bytes()
        return parameters, pieces

    def _pieces(self, parameters: Parameters) -> list[Pieces]:
        """Token ids of all texts."""
        pieces: list[Pieces] = []
        left = self.limits.tokens
        for index, each in enumerate(parameters.inputs):
            try:
                if isinstance(each, TextRequest):
                    piece = self.model.pieces(each)
                else:
                    piece = self.model.check_ids(each)
            except InputError as e:
                raise refused(f"input[{index}] {e}", "input") from e
            left -= sum(len(ids) for ids in piece.ids)
            if left < 0:
                raise too_large(
                    f"input[0] to input[{index}] have more than the {self.limits.tokens} tokens that this "
                    "service reads in one request. Send fewer texts at a time.",
                    "input",
                )
            pieces.append(piece)
        return pieces

    async def _vectors(self, request: Request, pieces: list[Pieces], until: float) -> Floats:
        """The vectors of all sequences, unless the client disconnects or the time runs out first."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        job = Job(pieces, partial(loop.call_soon_threadsafe, ready.set))
        self.batcher.submit(job)
        watched = [asyncio.create_task(ready.wait()), asyncio.create_task(_gone(request))]
        try:
            await asyncio.wait(
                watched, timeout=max(0, until - loop.time()), return_when=asyncio.FIRST_COMPLETED
            )
            if job.error is not None:
                raise job.error
            if job.vectors is not None and not job.left:
                return job.vectors
        finally:
            if job.left:
                self.batcher.cancel(job)
            for task in watched:
                task.cancel()
        if watched[1].done():
            raise ClientDisconnect
        raise ServiceError(
            504,
            f"There was no answer within {self.limits.seconds:g} seconds. Send fewer texts, or try later.",
            code="timeout",
        )

    def _spell(self, parameters: Parameters, vectors: Floats, pieces: list[Pieces]) -> bytes:
        rows = self.model.finished(vectors, pieces, parameters.dim)
        tokens = sum(len(ids) for piece in pieces for ids in piece.ids)
        metrics.note_answer(len(pieces))
        return spell(rows, parameters.base64, self.model.name, tokens)

    async def _in_pool(self, work: Callable[..., _Result], *arguments: Any) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)


async def _gone(request: Request) -> None:
    """Return when the client has disconnected."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def failure(error: ServiceError) -> JSONResponse:
    """The answer to a request that failed."""
    body = shaped(error.message, error.status, error.code, error.param)
    return JSONResponse(body, error.status, error.headers)
