"""The listener of the outage responder and the health end point, with more connections than it keeps."""

from __future__ import annotations

import http.client
import socket
import threading
from http import HTTPStatus

import pytest

from triton_server.supervisor import listener as listener_module
from triton_server.supervisor.listener import JsonHandler, Listener


class Few(Listener):
    most = 4


class Handler(JsonHandler):
    def do_GET(self) -> None:  # noqa: N802 - the name of the base class
        self.send(HTTPStatus.OK, {})


def test_of_too_many_connections_the_oldest_goes() -> None:
    before = threading.active_count()
    with Few("127.0.0.1", 0, Handler) as listener:
        threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
        idle = [socket.create_connection(("127.0.0.1", listener.port), timeout=10) for _ in range(12)]
        connection = http.client.HTTPConnection("127.0.0.1", listener.port, timeout=10)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"{}\n"
        for client in idle[:8]:
            assert client.recv(1) == b"", "let go"
        for client in idle[-3:]:
            client.settimeout(0.05)
            with pytest.raises(TimeoutError):
                client.recv(1)
        assert threading.active_count() <= before + 1 + Few.most
        listener.shutdown()
        for client in idle:
            client.close()
        connection.close()


def test_it_keeps_fewer_where_few_files_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "files_allowed", lambda: 8)
    with Few("127.0.0.1", 0, Handler) as listener:
        threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
        clients = [socket.create_connection(("127.0.0.1", listener.port), timeout=10) for _ in range(3)]
        assert clients[0].recv(1) == b"", "let go"
        listener.shutdown()
        for client in clients:
            client.close()
