"""The answer to a request that fails: a status, and a body in OpenAI's format."""

from typing import Any

# For the log and the metrics alone: the client went away, nothing is sent.
CLIENT_GONE = 499


class ServiceError(Exception):
    """A refusal: `param` is the request's field that caused it, `code` a word for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = headers or {}


def refused(message: str, param: str | None = None, code: str = "invalid_value") -> ServiceError:
    """An error for a request that this service cannot fulfil: 400."""
    return ServiceError(400, message, code=code, param=param)


def too_large(message: str, param: str | None = None) -> ServiceError:
    """An error for a request beyond a limit: 413."""
    return ServiceError(413, message, code="request_too_large", param=param)


def busy(message: str) -> ServiceError:
    """An error for a service without room at this moment: 503, with the time to retry after."""
    return ServiceError(503, message, code="overloaded", headers={"Retry-After": "1"})


def shaped(message: str, status: int, code: str, param: str | None = None) -> dict[str, Any]:
    """The body of an error answer, in OpenAI's format."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
