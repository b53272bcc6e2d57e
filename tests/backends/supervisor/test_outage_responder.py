"""The outage responder against the field's clients, and against those who mean no good."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from triton_server.server.control_api import Control
from triton_server.server.ports import resolve_ports
from triton_server.supervisor.outage_responder import PENDING, PREFACE, REQUESTS, OutageResponder

DATA, HEADERS, SETTINGS, GOAWAY, CONTINUATION = 0, 1, 4, 7, 9
END_HEADERS = 4
FRAME_SIZE_ERROR, ENHANCE_YOUR_CALM = 6, 11


@dataclass
class Ports:
    http: int
    grpc: int


@pytest.fixture
def ports() -> Iterator[Ports]:
    http, grpc = resolve_ports("127.0.0.1", (0, 0))
    responder = OutageResponder("127.0.0.1", http, grpc)
    responder.open("the model server is restarting (dead)")
    try:
        yield Ports(http, grpc)
    finally:
        responder.close()
    assert resolve_ports("127.0.0.1", (http, grpc)) == [http, grpc]


def test_clients_are_told_at_once_when_to_come_again(ports: Ports) -> None:
    images = np.zeros((1, 3, 224, 224), np.float32)
    for module, port in ((tritonclient.grpc, ports.grpc), (tritonclient.http, ports.http)):
        tensor = module.InferInput("images", images.shape, "FP32")
        tensor.set_data_from_numpy(images)
        client = module.InferenceServerClient(f"127.0.0.1:{port}")
        for _ in range(5):
            with pytest.raises(InferenceServerException, match=r"restarting.*retry in 500 ms") as caught:
                client.infer("resnet50_top", [tensor])
            assert str(caught.value.status()) in ("StatusCode.UNAVAILABLE", "503")
        client.close()
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://127.0.0.1:{ports.http}/v2/health/ready")
    assert refused.value.headers["Retry-After"] == "1"
    refused.value.close()
    assert not Control("127.0.0.1", ports.http).live()


def frame(kind: int, flags: int, stream: int, size: int, body: bytes = b"") -> bytes:
    """An HTTP/2 frame that claims ``size`` bytes (RFC 9113, section 4.1)."""
    return size.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body


def ends_with(client: socket.socket) -> int:
    """The error of the GOAWAY with which the server ends a connection."""
    came = b""
    while part := client.recv(1 << 16):
        came += part
    error = -1
    while came:
        size, kind = int.from_bytes(came[:3], "big"), came[3]
        if kind == GOAWAY:
            error = int.from_bytes(came[13:17], "big")
        came = came[9 + size :]
    return error


@pytest.fixture
def client(ports: Ports) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", ports.grpc), timeout=20) as connection:
        connection.sendall(PREFACE + frame(SETTINGS, 0, 0, 0))
        yield connection


@pytest.mark.parametrize("kind", [DATA, HEADERS, SETTINGS, 77])
def test_a_frame_that_claims_much_is_refused_before_it_comes(client: socket.socket, kind: int) -> None:
    client.sendall(frame(kind, 0, 0 if kind == SETTINGS else 1, (1 << 24) - 1))
    assert ends_with(client) == FRAME_SIZE_ERROR


def test_headers_without_end_are_cut_off(client: socket.socket) -> None:
    part = bytes(1 << 14)
    sent = len(part)
    client.sendall(frame(HEADERS, 0, 1, len(part), part))
    with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012 - whichever of them meets the end
        while sent < 64 * PENDING:
            client.sendall(frame(CONTINUATION, 0, 1, len(part), part))
            sent += len(part)
    assert sent < 64 * PENDING


def test_one_connection_may_not_ask_for_ever(client: socket.socket) -> None:
    block = b"\x83\x86\x84\x41\x01a"  # POST, http, /, an authority: indexed fields of RFC 7541
    client.sendall(b"".join(frame(HEADERS, END_HEADERS, 2 * n + 1, len(block), block) for n in range(REQUESTS + 1)))
    assert ends_with(client) == ENHANCE_YOUR_CALM


def test_http_headers_without_end_are_cut_off(ports: Ports) -> None:
    with socket.create_connection(("127.0.0.1", ports.http), timeout=20) as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        sent = 0
        with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012 - as above
            while sent < 1 << 24:
                client.sendall(b"x: " + b"y" * 8000 + b"\r\n")
                sent += 8000
    assert sent < 1 << 24


@pytest.mark.parametrize("length", ["-5", "much", "\u0663"])
def test_a_length_that_is_none_is_answered_too(ports: Ports, length: str) -> None:
    with socket.create_connection(("127.0.0.1", ports.http), timeout=20) as client:
        client.sendall(f"POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n".encode())
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 503 ")
