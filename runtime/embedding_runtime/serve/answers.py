"""Encodes answers as OpenAI's clients read them, and sends them no faster than the client takes them."""

import asyncio
import base64
import json
from collections.abc import Iterable
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from embedding_runtime.vectors import Floats, as_json

_PART = 1 << 16


def spell(vectors: Floats, as_base64: bool, model: str, tokens: int) -> bytes:
    """The JSON body for vectors (N, dim): each is a list of numbers, or base64 of little-endian float32."""
    spelled: Iterable[str] = (
        (f'"{base64.b64encode(v.astype("<f4").tobytes()).decode("ascii")}"' for v in vectors)
        if as_base64
        else map(as_json, vectors)
    )
    rows = ",".join(f'{{"object":"embedding","index":{i},"embedding":{v}}}' for i, v in enumerate(spelled))
    usage = json.dumps({"prompt_tokens": tokens, "total_tokens": tokens})
    return f'{{"object":"list","data":[{rows}],"model":{json.dumps(model)},"usage":{usage}}}'.encode()


class Paced(Response):
    """A JSON body sent part by part, each when the client has taken the previous ones; cut off at `until`."""

    media_type = "application/json"

    def __init__(self, body: bytes, until: float, headers: dict[str, str] | None = None) -> None:
        """`until` is a time of the event loop's clock."""
        super().__init__(body, headers=headers)
        self._until = until

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it.

        Raises:
            TimeoutError: the client has not taken it in time; the server closes the connection.
        """
        body = memoryview(self.body)
        async with asyncio.timeout_at(self._until):
            start: dict[str, Any] = {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
            await send(start)
            for place in range(0, max(1, len(body)), _PART):
                part = bytes(body[place : place + _PART])
                more = place + _PART < len(body)
                await send({"type": "http.response.body", "body": part, "more_body": more})
