"""What a server's refusal means: whose fault it is, and whether sending again can help."""

from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass

from sonic_client.errors import (
    AuthenticationError,
    BadReplyError,
    DeadlineError,
    InvalidRequestError,
    ModelNotFoundError,
    RequestError,
    ServerFaultError,
    ServerUnavailableError,
)


class Kind(enum.Enum):
    """Classes of failure. Only some are worth another attempt, and only some speak against the server."""

    CALLER = "caller"
    """INVALID_ARGUMENT and the like: never sent again."""
    NOT_FOUND = "not found"
    """The server does not have the model; another one may."""
    AUTHENTICATION = "authentication"
    CONNECTION = "connection"
    """Lost, refused, shutting down: sent again, elsewhere if possible."""
    NOT_READY = "not ready"
    """The server answers, but the model is still loading or was unloaded."""
    OVERLOAD = "overload"
    """The server's queue or a proxy's limit is full: sent again, later."""
    SLOW = "slow"
    """One attempt's time was up; the total deadline may allow another."""
    SERVER = "server"
    """The server broke on it: sent again, and it counts against the server."""
    SHARED_MEMORY = "shared memory"
    """The server lost or cannot see the region: sent again inline."""
    REPLY = "reply"
    """The answer contradicts the metadata: counts against the server."""


RETRIED = frozenset(
    {Kind.CONNECTION, Kind.NOT_READY, Kind.OVERLOAD, Kind.SLOW, Kind.SERVER, Kind.SHARED_MEMORY, Kind.REPLY}
)
AGAINST_SERVER = frozenset({Kind.CONNECTION, Kind.SERVER, Kind.SLOW, Kind.NOT_READY, Kind.NOT_FOUND, Kind.REPLY})

_ERRORS: dict[Kind, type[RequestError]] = {
    Kind.CALLER: InvalidRequestError,
    Kind.NOT_FOUND: ModelNotFoundError,
    Kind.AUTHENTICATION: AuthenticationError,
    Kind.CONNECTION: ServerUnavailableError,
    Kind.NOT_READY: ServerUnavailableError,
    Kind.OVERLOAD: ServerUnavailableError,
    Kind.SLOW: DeadlineError,
    Kind.SERVER: ServerFaultError,
    Kind.SHARED_MEMORY: ServerFaultError,
    Kind.REPLY: BadReplyError,
}

_GRPC = {
    "INVALID_ARGUMENT": Kind.CALLER,
    "FAILED_PRECONDITION": Kind.CALLER,
    "OUT_OF_RANGE": Kind.CALLER,
    "UNIMPLEMENTED": Kind.CALLER,
    "ALREADY_EXISTS": Kind.CALLER,
    "NOT_FOUND": Kind.NOT_FOUND,
    "UNAUTHENTICATED": Kind.AUTHENTICATION,
    "PERMISSION_DENIED": Kind.AUTHENTICATION,
    "UNAVAILABLE": Kind.CONNECTION,
    "CANCELLED": Kind.CONNECTION,
    "ABORTED": Kind.CONNECTION,
    "RESOURCE_EXHAUSTED": Kind.OVERLOAD,
    "DEADLINE_EXCEEDED": Kind.SLOW,
    "INTERNAL": Kind.SERVER,
    "UNKNOWN": Kind.SERVER,
    "DATA_LOSS": Kind.SERVER,
}
_HTTP = {
    400: Kind.CALLER,
    401: Kind.AUTHENTICATION,
    403: Kind.AUTHENTICATION,
    404: Kind.NOT_FOUND,
    408: Kind.SLOW,
    409: Kind.CALLER,
    413: Kind.CALLER,
    415: Kind.CALLER,
    429: Kind.OVERLOAD,
    499: Kind.CONNECTION,
    500: Kind.SERVER,
    501: Kind.CALLER,
    502: Kind.CONNECTION,
    503: Kind.CONNECTION,
    504: Kind.SLOW,
}


@dataclass
class Fault(Exception):  # noqa: N818 - it never leaves the package; callers see errors.RequestError
    """One failed sending."""

    kind: Kind
    reason: str

    def __str__(self) -> str:
        return self.reason

    def error(self, *, request_id: str, model: str, server: str, attempts: int) -> RequestError:
        """The exception that the caller gets when this was the last word."""
        return _ERRORS[self.kind](self.reason, request_id=request_id, model=model, server=server, attempts=attempts)


def is_cancelled() -> bool:
    """Whether the running task is being cancelled: gRPC ends its calls in the same way when a channel is closed."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def from_status(status: str | None, message: str) -> Fault:
    """Judge a refusal by its gRPC status ("StatusCode.UNAVAILABLE") or HTTP code ("503"), and Triton's words.

    Without a status no server said it: tritonclient refuses the request.
    """
    if status is None:
        return Fault(Kind.CALLER, message)
    code = status.rpartition(".")[2]
    kind = _HTTP.get(int(code), Kind.SERVER) if code.isdecimal() else _GRPC.get(code, Kind.SERVER)
    words = message.lower()
    if "shared memory region" in words:
        kind = Kind.SHARED_MEMORY
    elif "unknown model" in words or "is not found" in words:
        # Triton says UNAVAILABLE or INVALID_ARGUMENT, by version, for what it has never heard of.
        kind = Kind.NOT_READY if "no available versions" in words or "not ready" in words else Kind.NOT_FOUND
    elif kind is Kind.CONNECTION and ("not ready" in words or "no available versions" in words):
        kind = Kind.NOT_READY
    if "exceeds maximum queue size" in words or "timeout expired" in words:
        kind = Kind.OVERLOAD
    return Fault(kind, message or f"status {code or 'unknown'}")
