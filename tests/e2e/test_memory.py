"""Clients that send too much at once: the proxy and the server hold no more than they may, and serve on."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import ClassVar

import grpc
import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.e2e.conftest import COMPLETE, Service, images, serving
from tests.support.proxy import Replica, Running, running
from triton_server.supervisor.processes import private_bytes

pytestmark = pytest.mark.server

MB = 1 << 20
ZEROS = bytes(MB)
PROXY_MEMORY = 1 << 30
"""What docker/compose.yaml gives a proxy."""


@contextlib.contextmanager
def uploads(port: int, count: int, megabytes: int, pause: float = 0.0) -> Iterator[None]:
    """Begin so many requests together, or one each `pause` seconds; send all but their ends, and hold them."""
    head = (
        "POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: 2\r\n"
        f"Content-Length: {megabytes * MB + 1}\r\n\r\n"
    )
    begun = threading.Barrier(count)

    def send(client: socket.socket) -> None:
        with contextlib.suppress(OSError):  # who is asked to hold too much hangs up
            client.sendall(head.encode())
            if not pause:
                begun.wait(10)
            for _ in range(megabytes):
                client.sendall(ZEROS)

    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)) for _ in range(count)]
        with futures.ThreadPoolExecutor(count) as pool:
            for client in clients:
                pool.submit(send, client)
                time.sleep(pause)
        yield


@contextlib.contextmanager
def grpc_uploads(port: int, count: int, megabytes: int) -> Iterator[None]:
    """The same over gRPC, each with a connection of its own: a request that comes in pieces, and never to its end."""
    ending = threading.Event()

    def pieces(complete: threading.Event) -> Iterator[bytes]:
        for _ in range(megabytes):
            yield ZEROS
        complete.set()
        ending.wait()

    with contextlib.ExitStack() as stack:
        calls = []
        for _ in range(count):
            options = [("grpc.use_local_subchannel_pool", 1)]
            channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}", options))
            complete = threading.Event()
            call = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer").future(pieces(complete))
            call.add_done_callback(lambda _, complete=complete: complete.set())  # refused, or broken off
            calls.append((call, complete))
        for _, complete in calls:
            assert complete.wait(30)
        yield
        ending.set()
        for call, _ in calls:
            call.cancel()


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


class Refusing(http.server.BaseHTTPRequestHandler):
    """A replica that is ready, takes each request whole, and refuses the first."""

    taken: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        self.answer(200)

    def do_POST(self) -> None:
        self.taken.append(len(self.rfile.read(int(self.headers["Content-Length"]))))
        self.answer(503 if len(self.taken) == 1 else 200)

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_the_largest_requests_are_sent_again_too(tmp_path: Path) -> None:
    sizes: list[int] = []

    def infer(request: bytes, context: grpc.ServicerContext) -> bytes:
        sizes.append(len(request))
        if len(sizes) == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return b""

    options = [("grpc.max_receive_message_length", -1)]
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as replica,
        futures.ThreadPoolExecutor(4) as pool,
    ):
        handler = grpc.method_handlers_generic_handler(
            "inference.GRPCInferenceService", {"ModelInfer": grpc.unary_unary_rpc_method_handler(infer)}
        )
        server = grpc.server(pool, [handler], options=options)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        threading.Thread(target=replica.serve_forever).start()
        body = bytes(31 * MB)
        try:
            with running("envoy.yaml", Replica(port, replica.server_port, replica.server_port), tmp_path) as proxy:
                connection = http.client.HTTPConnection("127.0.0.1", proxy.http, timeout=60)
                with contextlib.closing(connection):
                    connection.request("POST", "/v2/models/tiny/infer", body)
                    assert connection.getresponse().status == 200
                assert Refusing.taken == [len(body)] * 2
                with grpc.insecure_channel(f"127.0.0.1:{proxy.grpc}") as channel:
                    assert channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(body, timeout=60) == b""
                assert sizes == [len(body)] * 2
        finally:
            replica.shutdown()
            server.stop(None)


def deep(levels: int) -> bytes:
    """JSON that is nested so deep."""
    return b'{"inputs":[],"parameters":{"a":' + b"[" * levels + b"]" * levels + b"}}"


def post(port: int, body: bytes | Iterator[bytes], kind: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", "/v2/models/tiny/infer", body, {"Content-Type": kind})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())["error"]


JSON, FORM = "application/json", "application/x-www-form-urlencoded"


def test_a_request_that_fills_the_stack_of_a_thread_ends_nobody(service: Service, proxy: Running) -> None:
    """Nested JSON and forms, for which Triton needs the more of it the larger they are: it has enough, or sees none."""
    server = int(service.urls["http"].rpartition(":")[2])
    for port in (server, proxy.http):
        assert post(port, deep(500_000), JSON)[0] in (400, 500), "Triton's own answer"
        assert post(port, b"x" * 31 * MB, FORM)[0] in (400, 500), "Triton's own answer"
    told = "expected JSON of at most 64 levels and 2000000 brackets"
    assert post(proxy.http, deep(15_000_000), JSON) == (400, told)
    assert post(proxy.http, iter([deep(15_000_000)]), JSON) == (400, told), "its length is not said before"
    assert not service.restarts()


def test_the_largest_sound_json_passes_the_proxy(service: Service, proxy: Running) -> None:
    values = images(8, 3, 32, 32)
    image = {"name": "images", "shape": [8, 3, 32, 32], "datatype": "FP32", "data": values.tolist()}
    body = json.dumps({"inputs": [image]}).encode()
    body += b" " * (25 * MB - len(body))
    connection = http.client.HTTPConnection("127.0.0.1", proxy.http, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", "/v2/models/tiny/infer", body, {"Content-Type": JSON})
        answer = json.loads(connection.getresponse().read())
    expected = service.infer("grpc", "tiny", values)
    np.testing.assert_allclose(np.reshape(answer["outputs"][0]["data"], expected.shape), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("protocol", "pause"), [("http", 0.0), ("http", 0.05), ("grpc", 0.0)], ids=["together", "in turn", "grpc"]
)
def test_the_proxy_serves_on_beside_uploads_that_stand_still(
    service: Service, proxy: Running, protocol: str, pause: float
) -> None:
    """It takes what its memory allows, refuses or cuts off the rest, and gives the room to others after some seconds.

    What its allocator keeps for the next requests is not given back to the system each time, but does not grow.
    """
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
        for _ in range(2):
            with uploads(proxy.http, 80, 30, pause) if protocol == "http" else grpc_uploads(proxy.grpc, 80, 30):
                service.wait_for(answered)
            service.wait_for(lambda: proxy.allocated() < 64 * MB)
            assert 256 * MB < proxy.most_memory() < PROXY_MEMORY
            assert answered()
    assert refusals <= {"StatusCode.UNAVAILABLE"}
    assert not service.restarts()
