"""Tag jets with models that a Triton server serves: asynchronously, over gRPC or HTTP, from any laptop.

    from sonic_client import Client

    client = Client("triton+grpc://localhost:8001/top_tagger")
    scores = client.tag(jets)

This is the public face, and so longer than other packages' first files: each name of it stands here, a line each.
"""

from fpga_ops.moved_modules import redirect
from sonic_client.async_client import AsyncClient
from sonic_client.client import Client, tag
from sonic_client.core.reply import Reply
from sonic_client.core.working_points import WorkingPoint
from sonic_client.errors import (
    AuthenticationError,
    BadReplyError,
    ClientError,
    ConfigurationError,
    DeadlineError,
    InvalidRequestError,
    JetError,
    ModelNotFoundError,
    RequestError,
    ServerFaultError,
    ServerUnavailableError,
    WorkingPointError,
)
from sonic_client.events.jets import MAX_CONSTITUENTS, prepare
from sonic_client.old_paths import MOVED
from sonic_client.options import LocalModel, LocalServer, Options, Retry, Tls, token_from_environment

redirect(MOVED)

__all__ = [
    "MAX_CONSTITUENTS",
    "AsyncClient",
    "AuthenticationError",
    "BadReplyError",
    "Client",
    "ClientError",
    "ConfigurationError",
    "DeadlineError",
    "InvalidRequestError",
    "JetError",
    "LocalModel",
    "LocalServer",
    "ModelNotFoundError",
    "Options",
    "Reply",
    "RequestError",
    "Retry",
    "ServerFaultError",
    "ServerUnavailableError",
    "Tls",
    "WorkingPoint",
    "WorkingPointError",
    "prepare",
    "tag",
    "token_from_environment",
]
