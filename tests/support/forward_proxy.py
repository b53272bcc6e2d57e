"""A forward proxy for HTTP, as sites have them: it tunnels CONNECT, and forwards requests with a whole URL.

Whatever host is asked for, it connects to one address: so a test can name a host that does not exist.
"""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class ForwardProxy:
    """Attributes: target: `host:port` behind it; refuse: a status to answer with instead; seen: hosts asked for."""

    target: str
    refuse: int = 0
    url: str = ""
    seen: list[str] = field(default_factory=list)
    credentials: list[str | None] = field(default_factory=list)


@contextmanager
def forward_proxy(target: str, refuse: int = 0) -> Iterator[ForwardProxy]:
    proxy = ForwardProxy(target, refuse)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_CONNECT(self) -> None:
            if not self._admits(self.path):
                return
            host, _, port = proxy.target.rpartition(":")
            with socket.create_connection((host, int(port)), timeout=30) as upstream:
                self.send_response(200)
                self.end_headers()
                back = threading.Thread(target=_pump, args=(upstream, self.connection), daemon=True)
                back.start()
                _pump(self.connection, upstream)
                back.join(30)
            self.close_connection = True

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if not self._admits(parts.netloc):
                return
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name: value for name, value in self.headers.items() if not name.lower().startswith("proxy-")}
            upstream = http.client.HTTPConnection(proxy.target, timeout=30)
            upstream.request(self.command, parts.path, body, headers)
            answer = upstream.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                    self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            upstream.close()

        do_POST = do_GET  # noqa: N815

        def _admits(self, host: str) -> bool:
            proxy.seen.append(host)
            proxy.credentials.append(self.headers.get("proxy-authorization"))
            if proxy.refuse:
                self.send_error(proxy.refuse)
            return not proxy.refuse

        def log_message(self, *_: object) -> None:
            """Silence."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return
