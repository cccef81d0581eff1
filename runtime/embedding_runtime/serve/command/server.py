"""The settings that every HTTP server of ours has. Needs uvicorn."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

_KEEP_ALIVE_SECONDS = 75


def make_server(app: "ASGIApp", grace_seconds: int, **settings: Any) -> "uvicorn.Server":
    """A server of an application that says nothing of itself and trusts no proxy's headers.

    When a signal ends it, requests under way have `grace_seconds`; `settings` are further ones of
    `uvicorn.Config`.
    """
    import uvicorn

    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=grace_seconds,
        **settings,
    )
    return uvicorn.Server(config)
