"""What the outage responder and the health end point share: a quiet threaded listener, and answers in JSON."""

import contextlib
import http.server
import json
import logging
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Mapping
from http import HTTPStatus
from io import BufferedIOBase
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

    def serve_on(self) -> None:
        """Serve until ``shutdown``. A fault is logged, and the serving goes on."""
        while True:
            try:
                self.serve_forever(0.02)
            except Exception:
                log.exception("the listener on port %d failed and goes on", self.port)
                time.sleep(0.1)
            else:
                return

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
    most_headers: ClassVar[int] = 1 << 15
    """Bytes of a request's line and headers; http.server itself would take 6.5 MB from each connection."""

    def setup(self) -> None:
        """Bound what is read before there is a request."""
        super().setup()
        self._plain = self.rfile
        self.rfile = _Bounded(self._plain, self.most_headers)  # type: ignore[assignment]

    def parse_request(self) -> bool:
        """Read the headers; the body is read by who answers."""
        good = super().parse_request()
        self.rfile = self._plain
        return good

    def handle_one_request(self) -> None:
        """Bound each request of a connection anew."""
        self.rfile = _Bounded(self._plain, self.most_headers)  # type: ignore[assignment]
        super().handle_one_request()

    def finish(self) -> None:
        """Close the stream itself."""
        self.rfile = self._plain
        super().finish()

    def send(
        self, code: HTTPStatus, content: Mapping[str, Any] | str, headers: Mapping[str, str] | None = None, *,
        kind: str | None = None,
    ) -> None:  # fmt: skip
        """Send a whole answer; text is Prometheus' unless ``kind`` says another type."""
        body = (content if isinstance(content, str) else json.dumps(content) + "\n").encode()
        if kind is None:
            kind = "text/plain; version=0.0.4; charset=utf-8" if isinstance(content, str) else "application/json"
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


class _Bounded:
    """Lines of a stream, which seems to end after so many bytes."""

    def __init__(self, stream: BufferedIOBase, most: int) -> None:
        self._stream = stream
        self._left = most
        self.closed = False

    def readline(self, size: int = -1) -> bytes:
        """The next line, or what of it may be read."""
        most = self._left if size < 0 else min(size, self._left)
        line = self._stream.readline(most) if most else b""
        self._left -= len(line)
        return line
