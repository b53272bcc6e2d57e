"""Clients that send too much at once: the proxy and the server hold no more than they may, and serve on."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.e2e.conftest import COMPLETE, Service, images, serving
from tests.proxy import Replica, Running, running
from triton_server.processes import private_bytes

pytestmark = pytest.mark.server

MB = 1 << 20
ZEROS = bytes(MB)
PROXY_MEMORY = 1 << 30
"""What docker/compose.yaml gives a proxy."""


@contextlib.contextmanager
def uploads(port: int, count: int, megabytes: int) -> Iterator[list[socket.socket]]:
    """Send all but the end of so many requests, and hold them."""
    head = (
        "POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: 2\r\n"
        f"Content-Length: {megabytes * MB + 1}\r\n\r\n"
    )
    with contextlib.ExitStack() as stack:
        held = []
        for _ in range(count):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            with contextlib.suppress(OSError):  # who holds too much hangs up
                client.sendall(head.encode())
                for _ in range(megabytes):
                    client.sendall(ZEROS)
            held.append(client)
        yield held


def test_a_server_that_holds_too_much_is_restarted(repository: Path) -> None:
    with serving(repository, COMPLETE, "--memory-limit", "256") as service:
        expected = service.infer("grpc", "tiny", images())
        with uploads(int(service.urls["http"].rpartition(":")[2]), 10, 100):
            service.wait_for(lambda: service.status()["restarts"].get("memory"))
        service.wait_ready()
        assert private_bytes(service.server_pid) < 256 * MB
        np.testing.assert_array_equal(service.infer("grpc", "tiny", images()), expected)
        assert "the server holds" in service.log.read_text()
        assert set(service.status()["restarts"]) == {"memory"}


@pytest.fixture
def service(repository: Path) -> Iterator[Service]:
    with serving(repository, COMPLETE) as started:
        yield started


@pytest.fixture
def proxy(service: Service, tmp_path: Path) -> Iterator[Running]:
    folder = tmp_path / "proxy"
    folder.mkdir()
    replica = Replica(*(int(service.urls[name].rpartition(":")[2]) for name in ("grpc", "http", "health")))
    with running("envoy.yaml", replica, folder) as envoy:
        yield envoy


def by_http(port: int, megabytes: int) -> tuple[int, str]:
    """Status and error of a request with so much data."""
    header = {"inputs": [{"name": "images", "shape": [1], "datatype": "FP32"}]}
    text = json.dumps(header).encode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        fields = {"Inference-Header-Content-Length": str(len(text))}
        with contextlib.suppress(ConnectionError):  # the answer comes before the whole request is sent
            connection.request("POST", "/v2/models/tiny/infer", text + bytes(megabytes * MB), fields)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())["error"]


def by_grpc(port: int, megabytes: int) -> tuple[grpc.StatusCode, str]:
    tensor = service_pb2.ModelInferRequest.InferInputTensor(name="images", datatype="FP32", shape=[1])
    request = service_pb2.ModelInferRequest(
        model_name="tiny", inputs=[tensor], raw_input_contents=[bytes(megabytes * MB)]
    )
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.max_send_message_length", -1)]) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60)
        return caught.value.code(), caught.value.details()


def test_the_proxy_takes_requests_of_32_mib(service: Service, proxy: Running) -> None:
    """Triton, which takes any size, does not see larger ones; they are the caller's mistake, so nobody repeats them."""
    before = private_bytes(service.server_pid)
    told = "expected a request of at most 32 MiB"
    for _ in range(4):
        assert by_http(proxy.http, 33) == (413, told)
        assert by_grpc(proxy.grpc, 33) == (grpc.StatusCode.INVALID_ARGUMENT, told)
    assert private_bytes(service.server_pid) < before + 16 * MB
    status, reason = by_http(proxy.http, 31)
    assert (status, told in reason) == (400, False), "Triton's own answer"
    code, reason = by_grpc(proxy.grpc, 31)
    assert (code, told in reason) == (grpc.StatusCode.INVALID_ARGUMENT, False), "Triton's own answer"


def test_the_proxy_serves_on_beside_uploads_that_stand_still(service: Service, proxy: Running) -> None:
    """It takes what its memory allows, refuses the rest at once, and gives the room to others after some seconds."""
    expected = service.infer("grpc", "tiny", images())
    client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{proxy.grpc}")
    refusals = set()

    def answered() -> bool:
        try:
            answer = service.infer("grpc", "tiny", images(), client=client)
        except InferenceServerException as error:
            refusals.add(str(error.status()))
            return False
        return np.array_equal(answer, expected)

    with contextlib.closing(client):
        with uploads(proxy.http, 80, 30):
            assert 256 * MB < private_bytes(proxy.pid) < PROXY_MEMORY
            service.wait_for(answered)
        service.wait_for(lambda: private_bytes(proxy.pid) < 256 * MB)
        assert answered()
    assert refusals <= {"StatusCode.UNAVAILABLE"}
    assert not service.restarts()
