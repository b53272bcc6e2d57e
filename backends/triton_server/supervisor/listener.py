"""What the gate and the health end point share: a quiet threaded listener, and answers in JSON."""

import contextlib
import http.server
import json
import logging
import socket
import socketserver
import sys
import threading
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, ClassVar

from triton_server.supervisor.processes import files_allowed

log = logging.getLogger("triton_server")


class Listener(socketserver.ThreadingTCPServer):
    """One thread a connection. ``shared`` lets another process of the same user listen on the same port.

    Of more connections than ``most`` the oldest goes: it has had its answer, or asks for none.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 512
    most: ClassVar[int] = 256

    def __init__(
        self, address: str, port: int, handler: type[socketserver.BaseRequestHandler], *, shared: bool = False
    ) -> None:
        self._options = [socket.SO_REUSEADDR, *([socket.SO_REUSEPORT] if shared else [])]
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._limit = min(self.most, files_allowed() // 4)
        self._open: dict[socket.socket, None] = {}
        self._lock = threading.Lock()
        super().__init__((address, port), handler)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.server_address[1])

    def server_bind(self) -> None:
        """Bind without the base's look-up of the host's name."""
        for option in self._options:
            self.socket.setsockopt(socket.SOL_SOCKET, option, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, beside as many others as there may be."""
        with self._lock:
            self._open[request] = None
            oldest = next(iter(self._open)) if len(self._open) > self._limit else None
            if oldest is not None:
                del self._open[oldest]
                with contextlib.suppress(OSError):  # it has just gone
                    oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection that is done."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away before its answer, or sent no HTTP, is no news; a fault of ours is."""
        error = sys.exception()
        if not isinstance(error, OSError | ValueError):
            log.error("answering %s failed", client_address, exc_info=error)


class JsonHandler(http.server.BaseHTTPRequestHandler):
    """Answers with text or JSON, and logs nothing: a probe every few seconds is no news."""

    timeout = 5.0

    def send(
        self, code: HTTPStatus, content: Mapping[str, Any] | str, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a whole answer."""
        body = (content if isinstance(content, str) else json.dumps(content) + "\n").encode()
        kind = "text/plain; version=0.0.4" if isinstance(content, str) else "application/json"
        with contextlib.suppress(ConnectionError):  # the client did not wait
            self.send_response(code)
            for name, value in {
                "Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})
            }.items():  # fmt: skip
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's signature
        """Say nothing."""
