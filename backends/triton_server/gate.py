"""What clients meet while the server is down: an immediate UNAVAILABLE on the server's own ports.

The gate listens on the same ports as the server (SO_REUSEPORT) and only from the moment a failure is noticed until the
server is back, so in normal service no request passes through Python. Without it a gRPC channel would find the port
closed and wait out its reconnection back-off (1 s, then 1.6 s, 2.6 s ...) after the server has long returned.
"""

import http.server
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any, NoReturn

import grpc

RETRY_MS = 500
"""The hint given to clients."""


class Gate:
    """Answers UNAVAILABLE (gRPC 14, HTTP 503 with Retry-After) to everything while it is open."""

    def __init__(self, address: str, http_port: int, grpc_port: int) -> None:
        self._address = address
        self._http_port = http_port
        self._grpc_port = grpc_port
        self._grpc: grpc.Server | None = None
        self._http: _HttpGate | None = None

    def open(self, reason: str) -> None:
        """Start to answer, with ``reason`` in the message; a port that cannot be had is left closed."""
        if self._grpc is not None or self._http is not None:
            return
        message = f"{reason}; retry in {RETRY_MS} ms"
        server = grpc.server(
            ThreadPoolExecutor(max_workers=4, thread_name_prefix="gate"),
            handlers=(_Refuse(message),),
            options=(("grpc.so_reuseport", 1), ("grpc.max_receive_message_length", -1)),
        )
        host = f"[{self._address}]" if ":" in self._address else self._address
        try:
            server.add_insecure_port(f"{host}:{self._grpc_port}")
        except RuntimeError:
            server.stop(None)
        else:
            server.start()
            self._grpc = server
        try:
            self._http = _HttpGate(self._address, self._http_port, message)
        except OSError:
            self._http = None
        else:
            threading.Thread(target=self._http.serve_forever, args=(0.05,), name="gate-http", daemon=True).start()

    def close(self) -> None:
        """Stop listening and drop what is connected: clients reconnect at once, to the server."""
        if self._grpc is not None:
            self._grpc.stop(0.1).wait(2.0)
            self._grpc = None
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http = None


class _Refuse(grpc.GenericRpcHandler):  # type: ignore[misc] # grpc has no types
    """One handler for every method, with the messages left as bytes."""

    def __init__(self, message: str) -> None:
        def refuse(_request: object, context: Any) -> NoReturn:
            context.set_trailing_metadata((("grpc-retry-pushback-ms", str(RETRY_MS)),))
            context.abort(grpc.StatusCode.UNAVAILABLE, message)
            raise RuntimeError("abort() raises")

        # A streaming call is refused before its first message; a unary one reads it, since clients send it anyway.
        self._handler = grpc.stream_stream_rpc_method_handler(refuse)

    def service(self, handler_call_details: object) -> Any:
        return self._handler


class _HttpGate(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: str, port: int, message: str) -> None:
        self.message = message
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        super().__init__((address, port), _HttpRefuse)

    def server_bind(self) -> None:
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            self.socket.setsockopt(socket.SOL_SOCKET, option, 1)
        self.socket.bind(self.server_address)  # not the base's, which looks up the host's name


class _HttpRefuse(http.server.BaseHTTPRequestHandler):
    """503 for everything. The body is read first, or the client would see a broken pipe in place of the answer."""

    protocol_version = "HTTP/1.1"
    timeout = 5.0
    server: _HttpGate

    def _refuse(self) -> None:
        remaining = int(self.headers.get("Content-Length") or 0)
        while remaining > 0:
            part = self.rfile.read(min(remaining, 1 << 16))
            if not part:
                return
            remaining -= len(part)
        body = json.dumps({"error": self.server.message}).encode()
        self.close_connection = True  # the next request must reach the server when it is back
        self.send_response(HTTPStatus.SERVICE_UNAVAILABLE)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Retry-After", "1")
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_POST = do_HEAD = do_PUT = do_DELETE = _refuse  # noqa: N815 - names of the base class

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's signature
        """Say nothing: the supervisor has told why."""
