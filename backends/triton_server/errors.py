"""Typed errors of the package. All derive from FpgaOpsError, so the command line prints them as one line."""

from fpga_ops.errors import FpgaOpsError


class ServerError(FpgaOpsError):
    """The server could not do what was asked."""


class ServerNotFoundError(ServerError):
    """No usable tritonserver: not installed, or its Python backend does not fit this interpreter."""


class ServerStartError(ServerError):
    """The server did not become ready; the message holds the end of its log."""


class ServerStalledError(ServerStartError):
    """The server neither becomes ready nor does anything."""


class MalformedAnswerError(ServerError):
    """The server answered a request of the control API with something that is no such answer."""


class RepositoryError(ServerError):
    """The shipped models are not there, or cannot be copied."""


class ControlError(ServerError):
    """The server refused a request of the control API (load, unload, index, statistics)."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
