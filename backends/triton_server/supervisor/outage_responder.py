"""What clients meet while the server is down: an immediate UNAVAILABLE on the server's own ports.

The outage responder listens on the same ports as the server (SO_REUSEPORT) and only from the moment a failure is
noticed until the server is back, so in normal service no request passes through Python. Without it a gRPC channel would
find the port closed and wait out its reconnection back-off (1 s, then 1.6 s, 2.6 s ...) after the server has long
returned.

Its gRPC side speaks HTTP/2 through h2, which bounds frames, headers and streams, and not through grpc.server: that one
answers calls which arrive while it stops with CANCELLED, which no client takes for a reason to retry.
"""

import contextlib
import logging
import socket
import socketserver
import threading
from http import HTTPStatus
from urllib.parse import quote

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from triton_server.supervisor.listener import JsonHandler, Listener

log = logging.getLogger("triton_server")

RETRY_MS = 500
"""The hint given to clients."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
READ = 1 << 14
"""Bytes of the largest frame that HTTP/2 allows unless another size is agreed upon."""
STREAMS = 128
"""Requests that one connection may have open."""
HEADERS = 1 << 14
"""Bytes of one request's headers, unpacked."""
PENDING = 1 << 17
"""Bytes that may come without making up anything: more than the window of a connection holds, so never a request."""
REQUESTS = 1000
"""Requests that one connection may make in all, since each is remembered for a while."""
IDLE_S = 30.0


class OutageResponder:
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
                threading.Thread(target=listener.serve_on, name="outage responder", daemon=True).start()
                self._listeners.append(listener)

    def close(self) -> None:
        """Stop listening and send away what is connected: clients reconnect at once, to the server."""
        for listener in self._listeners:
            listener.end()
        self._listeners.clear()


class _Listener(Listener):
    handler: type[socketserver.BaseRequestHandler]
    most = 512

    def __init__(self, address: str, port: int, message: str) -> None:
        self.message = message
        super().__init__(address, port, self.handler, shared=True)

    def send_away(self) -> None:
        """Close what is connected."""

    def end(self) -> None:
        """Stop to listen, and close what is connected."""
        self.shutdown()
        self.server_close()
        self.send_away()


class _GrpcHandler(socketserver.BaseRequestHandler):
    """One HTTP/2 connection: every stream is refused as soon as its headers come."""

    server: "_GrpcListener"
    request: socket.socket

    def setup(self) -> None:
        """Read through a buffer."""
        self._stream = self.request.makefile("rb", READ)
        self._started = False

    def finish(self) -> None:
        """Give it up."""
        self._stream.close()

    def handle(self) -> None:
        self.request.settimeout(IDLE_S)
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection, pending, requests = _connection(), 0, 0
        lock = self.server.connections[self.request] = threading.Lock()
        self.server.states[self.request] = connection
        try:
            with lock:
                connection.initiate_connection()
                self.request.sendall(connection.data_to_send())
            while data := self._frame():
                with lock:
                    events = connection.receive_data(data)
                    requests += self._answer(connection, events)
                    pending = 0 if events else pending + len(data)
                    enough = pending > PENDING or requests > REQUESTS
                    if enough:
                        connection.close_connection(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
                    self.request.sendall(connection.data_to_send())
                if enough:
                    return
        except OSError:
            return  # the client has gone, or was idle for too long
        except h2.exceptions.ProtocolError as error:
            with contextlib.suppress(OSError, h2.exceptions.ProtocolError):
                connection.close_connection(error.error_code)
                self.request.sendall(connection.data_to_send())
        finally:
            self.server.connections.pop(self.request, None)
            self.server.states.pop(self.request, None)

    def _frame(self) -> bytes:
        """The next frame, or the preface; empty at the end. Raises ProtocolError for one that claims too much.

        h2 itself (4.4) looks at a frame's length when it has the whole of it.
        """
        if not self._started:
            self._started = True
            return bytes(self._stream.read(len(PREFACE)))
        head: bytes = self._stream.read(9)
        size = int.from_bytes(head[:3], "big")
        if size > READ:
            raise h2.exceptions.FrameTooLargeError(f"{size} bytes")
        return head + bytes(self._stream.read(size))

    def _answer(self, connection: h2.connection.H2Connection, events: list[h2.events.Event]) -> int:
        """Refuse what is asked; returns how many requests there were."""
        requests = 0
        for event in events:
            if isinstance(event, h2.events.RequestReceived):
                requests += 1
                connection.send_headers(event.stream_id, self.server.fields, end_stream=True)
                # After the complete answer, RST_STREAM with NO_ERROR tells the client to send no more of its request.
                with contextlib.suppress(h2.exceptions.StreamClosedError):
                    connection.reset_stream(event.stream_id, h2.errors.ErrorCodes.NO_ERROR)
            elif isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        return requests


def _connection() -> h2.connection.H2Connection:
    config = h2.config.H2Configuration(client_side=False, header_encoding=None)
    connection = h2.connection.H2Connection(config)
    connection.local_settings = h2.settings.Settings(
        client=False,
        initial_values={
            h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS,
            h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: HEADERS,
        },
    )
    return connection


class _GrpcListener(_Listener):
    handler = _GrpcHandler

    def __init__(self, address: str, port: int, message: str) -> None:
        self.connections: dict[socket.socket, threading.Lock] = {}
        """Each open connection, with the lock of its state."""
        self.states: dict[socket.socket, h2.connection.H2Connection] = {}
        self.fields = refusal_fields(message)
        super().__init__(address, port, message)

    def send_away(self) -> None:
        """GOAWAY with the last stream that was answered: gRPC repeats by itself what was sent after that."""
        for connection, lock in list(self.connections.items()):
            with contextlib.suppress(OSError, KeyError, h2.exceptions.ProtocolError), lock:
                state = self.states[connection]
                state.close_connection(h2.errors.ErrorCodes.NO_ERROR)
                connection.settimeout(1.0)
                connection.sendall(state.data_to_send())
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)


class _HttpHandler(JsonHandler):
    """503 for everything. The body is read first, or the client would see a broken pipe in place of the answer."""

    protocol_version = "HTTP/1.1"
    server: "_HttpListener"

    def setup(self) -> None:
        super().setup()
        self.server.connections[self.request] = None

    def finish(self) -> None:
        self.server.connections.pop(self.request, None)
        super().finish()

    def _refuse(self) -> None:
        length = self.headers.get("Content-Length") or "0"
        remaining = int(length) if length.isascii() and length.isdigit() else 0
        while remaining > 0:
            part = self.rfile.read(min(remaining, READ))
            if not part:
                return
            remaining -= len(part)
        self.close_connection = True  # the next request must reach the server when it is back
        headers = {"Retry-After": "1", "Connection": "close"}
        self.send(HTTPStatus.SERVICE_UNAVAILABLE, {"error": self.server.message}, headers)

    do_GET = do_POST = do_HEAD = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = _refuse  # noqa: N815 - the base's names


class _HttpListener(_Listener):
    handler = _HttpHandler

    def __init__(self, address: str, port: int, message: str) -> None:
        self.connections: dict[socket.socket, None] = {}
        super().__init__(address, port, message)

    def send_away(self) -> None:
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def refusal_fields(message: str) -> list[tuple[str, str]]:
    """Headers of a gRPC answer that is nothing but a status, UNAVAILABLE (14), with the hint when to retry."""
    return [
        (":status", "200"),
        ("content-type", "application/grpc"),
        ("grpc-status", "14"),
        ("grpc-message", quote(message, safe=" ;,:()'")),
        ("grpc-retry-pushback-ms", str(RETRY_MS)),
    ]
