"""What clients meet while the server is down: an immediate UNAVAILABLE on the server's own ports.

The gate listens on the same ports as the server (SO_REUSEPORT) and only from the moment a failure is noticed until the
server is back, so in normal service no request passes through Python. Without it a gRPC channel would find the port
closed and wait out its reconnection back-off (1 s, then 1.6 s, 2.6 s ...) after the server has long returned.

Its gRPC side speaks the little of HTTP/2 (RFC 9113) that a refusal needs, and not through grpc.server: that one answers
calls which arrive while it stops with CANCELLED, which no client takes for a reason to retry.
"""

import contextlib
import socket
import socketserver
import threading
from http import HTTPStatus
from urllib.parse import quote

from triton_server.supervisor.listener import JsonHandler, Listener

RETRY_MS = 500
"""The hint given to clients."""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK = _END_STREAM = 1
_END_HEADERS = 4
_IDLE_S = 30.0


class Gate:
    """Answers UNAVAILABLE (gRPC 14, HTTP 503 with Retry-After) to everything while it is open."""

    def __init__(self, address: str, http_port: int, grpc_port: int) -> None:
        self._address = address
        self._ports: tuple[tuple[int, type[_Listener]], ...] = ((grpc_port, _GrpcListener), (http_port, _HttpListener))
        self._listeners: list[_Listener] = []

    def open(self, reason: str) -> None:
        """Start to answer, with ``reason`` in the message; a port that cannot be had is left closed."""
        if self._listeners:
            return
        message = f"{reason}; retry in {RETRY_MS} ms"
        for port, kind in self._ports:
            with contextlib.suppress(OSError):
                listener = kind(self._address, port, message)
                threading.Thread(target=listener.serve_forever, args=(0.02,), name="gate", daemon=True).start()
                self._listeners.append(listener)

    def close(self) -> None:
        """Stop listening and send away what is connected: clients reconnect at once, to the server."""
        for listener in self._listeners:
            listener.shutdown()
            listener.server_close()
            listener.send_away()
        self._listeners.clear()


class _Listener(Listener):
    handler: type[socketserver.BaseRequestHandler]
    most = 512

    def __init__(self, address: str, port: int, message: str) -> None:
        self.message = message
        self.connections: dict[socket.socket, int] = {}
        """Each open connection with its highest stream."""
        super().__init__(address, port, self.handler, shared=True)

    def send_away(self) -> None:
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _GrpcHandler(socketserver.BaseRequestHandler):
    """One HTTP/2 connection: every stream is refused as soon as its headers come."""

    server: "_GrpcListener"
    request: socket.socket

    def handle(self) -> None:
        connection = self.request
        connection.settimeout(_IDLE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.server.connections[connection] = 0
        try:
            with connection.makefile("rb", 1 << 16) as stream:
                if stream.read(len(PREFACE)) == PREFACE:
                    connection.sendall(frame(_SETTINGS, 0, 0))
                    while head := stream.read(9):
                        self._answer(head, stream.read(int.from_bytes(head[:3])))
        except OSError:
            return  # the client has gone, or was idle for too long
        finally:
            self.server.connections.pop(connection, None)

    def _answer(self, head: bytes, body: bytes) -> None:
        kind, flags, number = head[3], head[4], int.from_bytes(head[5:]) & 0x7FFFFFFF
        if kind == _HEADERS and number > self.server.connections.get(self.request, 0):
            self.server.connections[self.request] = number
            # After the complete answer, RST_STREAM with NO_ERROR tells the client to send no more of its request.
            refusal = frame(_HEADERS, _END_STREAM | _END_HEADERS, number, self.server.block)
            self.request.sendall(refusal + frame(_RST_STREAM, 0, number, bytes(4)))
        elif kind == _DATA and body:
            self.request.sendall(frame(_WINDOW_UPDATE, 0, 0, len(body).to_bytes(4)))
        elif kind == _SETTINGS and not flags & _ACK:
            self.request.sendall(frame(_SETTINGS, _ACK, 0))
        elif kind == _PING and not flags & _ACK:
            self.request.sendall(frame(_PING, _ACK, 0, body))


class _GrpcListener(_Listener):
    handler = _GrpcHandler

    def __init__(self, address: str, port: int, message: str) -> None:
        self.block = refusal_headers(message)
        super().__init__(address, port, message)

    def send_away(self) -> None:
        """GOAWAY with the last stream that was answered: gRPC repeats by itself what was sent after that."""
        for connection, last in list(self.connections.items()):
            with contextlib.suppress(OSError):
                connection.sendall(frame(_GOAWAY, 0, 0, last.to_bytes(4) + bytes(4)))
                connection.shutdown(socket.SHUT_WR)


class _HttpHandler(JsonHandler):
    """503 for everything. The body is read first, or the client would see a broken pipe in place of the answer."""

    protocol_version = "HTTP/1.1"
    server: "_HttpListener"

    def _refuse(self) -> None:
        remaining = int(self.headers.get("Content-Length") or 0)
        while remaining > 0:
            part = self.rfile.read(min(remaining, 1 << 16))
            if not part:
                return
            remaining -= len(part)
        self.close_connection = True  # the next request must reach the server when it is back
        headers = {"Retry-After": "1", "Connection": "close"}
        self.send(HTTPStatus.SERVICE_UNAVAILABLE, {"error": self.server.message}, headers)

    do_GET = do_POST = do_HEAD = do_PUT = do_DELETE = _refuse  # noqa: N815 - names of the base class


class _HttpListener(_Listener):
    handler = _HttpHandler


def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    """One HTTP/2 frame (RFC 9113, section 4.1)."""
    return len(body).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + body


def refusal_headers(message: str) -> bytes:
    """Header block of a gRPC answer that is nothing but a status, UNAVAILABLE (14), with the hint when to retry.

    HPACK (RFC 7541) without compression: indexed ``:status 200``, then literal fields that no table remembers, so the
    block needs no state and suits every connection.
    """
    fields = {
        "content-type": "application/grpc",
        "grpc-status": "14",
        "grpc-message": quote(message, safe=" ;,:()'"),
        "grpc-retry-pushback-ms": str(RETRY_MS),
    }
    block = b"\x88"
    for name, value in fields.items():
        block += b"\x00" + _text(name) + _text(value)
    return block


def _text(text: str) -> bytes:
    """A string literal without Huffman coding; its length is an integer with a prefix of 7 bits."""
    data = text.encode("ascii")
    size, prefix = len(data), b""
    if size < 127:
        return bytes((size,)) + data
    size -= 127
    while size >= 128:
        prefix += bytes((size % 128 + 128,))
        size //= 128
    return b"\x7f" + prefix + bytes((size,)) + data
