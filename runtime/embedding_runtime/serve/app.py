"""The service's routes: embeddings (if the client is authorized), models, health, metrics."""

import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from embedding_runtime.serve import metrics
from embedding_runtime.serve.failures import ServiceError
from embedding_runtime.serve.service import Service, failure

# What a load balancer asks without a token.
_OPEN = ("/health", "/ready")


class _Guard:
    """Lets requests with the token through; those for `_OPEN`, and all if there is no token, need none."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app, self._token = app, None if token is None else token.encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _OPEN or self._knows(scope):
            await self._app(scope, receive, send)
            return
        refusal = ServiceError(
            401,
            "This service needs its token: Authorization: Bearer TOKEN (OpenAI's clients: api_key).",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer", "Connection": "close"},
        )
        await failure(refusal)(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        if self._token is None:
            return True
        scheme, _, shown = Headers(scope=scope).get("authorization", "").partition(" ")
        return (
            hmac.compare_digest(shown.strip().encode("latin-1"), self._token) and scheme.lower() == "bearer"
        )


def create_app(service: Service, token: str | None) -> Starlette:
    """The application around a service; it closes the service when it ends."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        service.close()

    app = Starlette(
        routes=[
            Route("/v1/embeddings", service, methods=["POST"]),
            Route("/v1/models", _models),
            Route("/v1/models/{name:path}", _model),
            Route("/health", _health),
            Route("/ready", _ready),
            Route("/metrics", _metrics),
        ],
        middleware=[Middleware(_Guard, token=token)],
        exception_handlers={HTTPException: _no_such_page, Exception: _fault},
        lifespan=lifespan,
    )
    app.state.service = service
    return app


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _described(service: Service) -> dict[str, Any]:
    model = service.model
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "embedding-edge",
        "graph": model.graph.key,
        "space_id": model.manifest.space_id,
        "dimensions": list(model.dims),
        "max_tokens": model.max_tokens,
        "tasks": list(model.tasks),
    }


async def _models(request: Request) -> Response:
    return JSONResponse({"object": "list", "data": [_described(_service(request))]})


async def _model(request: Request) -> Response:
    service, name = _service(request), request.path_params["name"]
    if service.model.is_called(name):
        return JSONResponse(_described(service))
    return failure(service.model.unknown(name))


async def _health(request: Request) -> Response:
    """Whether the engine's thread lives."""
    alive = _service(request).batcher.alive
    return JSONResponse({"status": "ok" if alive else "the engine has stopped"}, 200 if alive else 503)


async def _ready(request: Request) -> Response:
    """Whether there is room for one more request."""
    service = _service(request)
    ready = service.batcher.alive and not service.full
    return JSONResponse({"status": "ready" if ready else "busy"}, 200 if ready else 503)


async def _metrics(_: Request) -> Response:
    return Response(metrics.exposition(), media_type=metrics.CONTENT_TYPE)


async def _no_such_page(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = {
        404: f"There is nothing at {request.url.path}; the vectors are at /v1/embeddings.",
        405: f"{request.url.path} does not take {request.method}.",
    }.get(error.status_code, error.detail)
    headers = dict(error.headers or {})
    return failure(ServiceError(error.status_code, message, code="not_found", headers=headers))


async def _fault(_: Request, __: Exception) -> Response:
    """The answer to an unexpected exception, which is logged."""
    return failure(ServiceError(500, "The service failed; its log says how.", code="internal_error"))
