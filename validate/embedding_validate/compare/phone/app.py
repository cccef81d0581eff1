"""The page's addresses: a link that lets one browser in, the page, the plan, files, and where reports go.

Every answer has the headers that make a page cross-origin isolated, without which browsers give no threads
(https://web.dev/articles/coop-coep). Nobody else's files are served, and none but the plan's.
"""

import asyncio
import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embedding_validate.compare.phone import engines
from embedding_validate.compare.phone.address import Door
from embedding_validate.compare.phone.plan import Plan
from embedding_validate.compare.phone.results import InvalidReportError, Results

COOKIE = "compare_phone"
_MOST_BYTES = 4 << 20
_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'self'; script-src 'self' blob: 'wasm-unsafe-eval'; "
    "worker-src 'self' blob:; connect-src 'self' blob: data:; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_NOT_LET_IN = "This link has been used, or is not this computer's. Take the newest that compare-phone shows."


class _Headers:
    """Adds `_HEADERS` to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message["headers"], *own]
            await send(message)

        await self._app(scope, receive, with_headers)


class Pages:
    """Answers to the page's requests; `entered` is called when a link has been used."""

    def __init__(
        self, plan: Plan, packages: Path, results: Results, door: Door, entered: Callable[[], None]
    ) -> None:
        self._plan, self._packages, self._results = plan, packages, results
        self._door, self._entered = door, entered
        self._taking = asyncio.Lock()

    def app(self) -> Starlette:
        """The application."""
        routes = [
            Route("/", self._first),
            Route("/page/{name}", self._guarded(self._part)),
            Route("/engines/{name:path}", self._guarded(self._engine)),
            Route("/bundle/{name:path}", self._guarded(self._bundle)),
            Route("/plan", self._guarded(self._planned)),
            Route("/report", self._guarded(self._report), methods=["POST"]),
        ]
        return Starlette(routes=routes, middleware=[Middleware(_Headers)])

    def _known(self, request: Request) -> bool:
        return self._door.knows(request.cookies.get(COOKIE, ""))

    def _guarded(self, answer: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def guarded(request: Request) -> Response:
            if not self._known(request):
                return PlainTextResponse(_NOT_LET_IN, 403)
            response: Response = await answer(request)
            return response

        return guarded

    async def _first(self, request: Request) -> Response:
        """The page for a guest; a link's token is turned into a cookie, and leaves the address."""
        token = request.query_params.get("token")
        if token is None:
            return _part("index.html") if self._known(request) else PlainTextResponse(_NOT_LET_IN, 403)
        cookie = self._door.enter(token)
        if cookie is None:
            # A guest's reload of the link, which the browser may have kept.
            return RedirectResponse("/", 303) if self._known(request) else PlainTextResponse(_NOT_LET_IN, 403)
        self._entered()
        response = RedirectResponse("/", 303)
        secure = request.url.scheme == "https"
        response.set_cookie(COOKIE, cookie, httponly=True, samesite="strict", secure=secure)
        return response

    async def _part(self, request: Request) -> Response:
        return _part(request.path_params["name"])

    async def _engine(self, request: Request) -> Response:
        """A file of a package whose name has one part, or two (`@scope/name`)."""
        parts = request.path_params["name"].split("/")
        named = 2 if parts[0].startswith("@") else 1
        package, name = "/".join(parts[:named]), "/".join(parts[named:])
        file = engines.file(self._packages, package, name)
        if file is not None and file.suffix == ".js":
            return Response(engines.with_addresses(file), media_type=engines.KINDS[".js"])
        return _file(file, engines.KINDS.get(Path(name).suffix, ""))

    async def _bundle(self, request: Request) -> Response:
        return _file(self._plan.path(request.path_params["name"]), "application/octet-stream")

    async def _planned(self, request: Request) -> Response:
        return JSONResponse(self._plan.to_json(self._results.end_what_began(request.cookies[COOKIE])))

    async def _report(self, request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _MOST_BYTES:
                return PlainTextResponse(f"A report has at most {_MOST_BYTES} bytes.", 413)
        try:
            async with self._taking:
                self._results.take(json.loads(body), request.cookies[COOKIE])
        except (InvalidReportError, ValueError) as e:
            return PlainTextResponse(str(e), 400)
        except OSError as e:
            return PlainTextResponse(f"It cannot be written: {e.strerror or e}", 507)
        return Response(status_code=204)


def _part(name: str) -> Response:
    """A part of the page."""
    kind = _KINDS.get(Path(name).suffix)
    data = resources.files(__package__).joinpath("page", name)
    if kind is None or not data.is_file():
        return PlainTextResponse(f"There is no {name}.", 404)
    return Response(data.read_bytes(), media_type=kind)


def _file(path: Path | None, kind: str) -> Response:
    if path is None or not path.is_file():
        return PlainTextResponse("There is no such file.", 404)
    return FileResponse(path, media_type=kind)
