"""Reads the bodies of requests, within limits; `parameters` parses them."""

import asyncio
from collections.abc import Callable

from starlette.requests import Request

from embedding_runtime.serve.failures import ServiceError, too_large

# What is too large is still read for a while, and dropped: a connection that is closed while the client sends
# loses the answer.
_DROPPED = 16
_DROPPED_SECONDS = 5.0

Reserve = Callable[[int], None]


def check_headers(request: Request) -> None:
    """Refuse a body that is not plain JSON.

    Raises:
        ServiceError: 415.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ServiceError(
            415,
            f"The content type is {kind[:80]!r}; expected application/json (curl: -H 'Content-Type: "
            "application/json').",
            code="unsupported_media_type",
        )
    packed = request.headers.get("content-encoding", "identity").strip().lower()
    if packed != "identity":
        raise ServiceError(
            415,
            f"The body is packed ({packed[:80]!r}); send it as it is.",
            code="unsupported_media_type",
        )


async def read_body(request: Request, most: int, reserve: Reserve, until: float) -> bytes:
    """Read a body of at most `most` bytes; `reserve` is called before each part is kept.

    Raises:
        ServiceError: 408 if it is incomplete at `until`, 413 if it is larger, or what `reserve` raises.
        ClientDisconnect: the client went away.
    """
    try:
        async with asyncio.timeout_at(until):
            return await _read(request, most, reserve)
    except TimeoutError:
        raise ServiceError(
            408, "The body did not come in time.", code="timeout", headers={"Connection": "close"}
        ) from None


async def _read(request: Request, most: int, reserve: Reserve) -> bytes:
    declared = request.headers.get("content-length", "")
    size = int(declared) if declared.isdecimal() else 0
    if size > most:
        if "expect" not in request.headers:
            await _drop(request, most)
        raise _larger(most)
    reserve(size)
    body = bytearray()
    async for part in request.stream():
        if len(body) + len(part) > most:
            await _drop(request, most)
            raise _larger(most)
        if len(body) + len(part) > size:
            reserve(len(body) + len(part) - size)
            size = len(body) + len(part)
        body += part
    return bytes(body)


async def _drop(request: Request, most: int) -> None:
    left = _DROPPED * most
    try:
        async with asyncio.timeout(_DROPPED_SECONDS):
            while left > 0:
                message = await request.receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
                left -= len(message.get("body", b""))
    except TimeoutError:
        return


def _larger(most: int) -> ServiceError:
    error = too_large(f"The body is larger than the {most} bytes that this service reads.")
    error.headers["Connection"] = "close"
    return error
