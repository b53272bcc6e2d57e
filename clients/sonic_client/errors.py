"""Typed errors of `sonic_client`. A failed request names itself; nothing is ever replaced by an empty result."""

from __future__ import annotations

from typing import Self


class ClientError(Exception):
    """Base class of every error that `sonic_client` raises on purpose.

    Attributes:
        exit_code: What the command line returns for it.
    """

    exit_code = 2


class JetError(ClientError, ValueError):
    """The caller's jets or images cannot be sent: None, NaN, no constituents, wrong shape, missing fields."""


class FileError(ClientError, OSError):
    """A file that cannot be read, or not be written."""


class ConfigurationError(ClientError, ValueError):
    """The client's own settings contradict each other or cannot be used: URL, TLS files, token, options."""


class WorkingPointError(ClientError, LookupError):
    """There is no such working point for the version that answers, or nothing says the scale of its scores."""


class RequestError(ClientError):
    """A request failed for good.

    Args:
        reason: What went wrong, in the server's or the client's words.
        request_id: The id that the request carried; the server's log has the same.
        model: Name of the model asked for.
        server: The server that was asked last, or "" if none could be.
        attempts: How often the request was sent.
    """

    def __init__(self, reason: str, *, request_id: str = "", model: str = "", server: str = "", attempts: int = 0):
        self.reason = reason
        self.request_id = request_id
        self.model = model
        self.server = server
        self.attempts = attempts
        where = f" at {server}" if server else ""
        tries = f" after {attempts} attempts" if attempts > 1 else ""
        super().__init__(f"request {request_id or '(none)'} to model '{model}'{where} failed{tries}: {reason}")

    def with_reason(self, reason: str) -> Self:
        """The same error with other words."""
        return type(self)(
            reason, request_id=self.request_id, model=self.model, server=self.server, attempts=self.attempts
        )

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.reason, self.request_id, self.model, self.server, self.attempts)


class InvalidRequestError(RequestError, ValueError):
    """The server refused the request's content; sending it again cannot help."""


class ModelNotFoundError(RequestError, LookupError):
    """No server that was asked knows the model or the version."""


class AuthenticationError(RequestError, PermissionError):
    """The server wants a (better) token or certificate."""


class ServerUnavailableError(RequestError, ConnectionError):
    """No server could be reached, or none was ready, within the deadline."""


class DeadlineError(RequestError, TimeoutError):
    """The deadline passed before an answer came."""


class ServerFaultError(RequestError):
    """The server tried and broke (INTERNAL, DATA_LOSS, ...)."""


class BadReplyError(RequestError):
    """The server's answer is not what its metadata promise: an output is missing, or has another shape or dtype."""


def _rebuild(
    kind: type[RequestError], reason: str, request_id: str, model: str, server: str, attempts: int
) -> RequestError:
    return kind(reason, request_id=request_id, model=model, server=server, attempts=attempts)
