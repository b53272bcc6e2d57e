"""What a client believes and waits for ends with its cause: a model's signature, a closed client, a wrong request."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from sonic_client import (
    AsyncClient,
    BadReplyError,
    Client,
    ConfigurationError,
    InvalidRequestError,
    JetError,
    ServerUnavailableError,
)
from tests.clients.fake_server import FakeTriton, answer_to, serving
from tests.clients.jets import random_jets
from tests.support.http_server import answering

ROOT = Path(__file__).parents[2]
INPUT = {"constituents": np.ones((1, 200, 4), np.float32)}

# ---- another model under the same name


@pytest.mark.parametrize("call", [lambda client: client.infer(INPUT), lambda client: client.tag(random_jets(3))])
def test_a_model_with_another_output_is_told_once_and_then_used(call: Callable[[Client], Any]) -> None:
    fake = FakeTriton()
    with serving(fake) as (_, address), Client(address, "top_tagger", deadline=10) as client:
        call(client)
        fake.output = ("scores", "FP32", (-1, 2))
        fake.behaviour = lambda number, request, context: answer_to(request, name="scores")
        with pytest.raises(BadReplyError, match=r"was replaced, and now takes .* gives scores FP32\[-1, 2\]"):
            call(client)
        call(client)


class Other(FakeTriton):
    """The name's next version takes something else."""

    replaced = False

    def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        answer = super().ModelMetadata(request, context)
        if self.replaced:
            answer.inputs[0].name = "momenta"
        return answer


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_model_with_another_input_is_asked_for_before_a_request_is_refused(asynchronous: bool) -> None:
    fake = Other()
    with serving(fake) as (_, address), Client(address, "top_tagger", deadline=10) as client:
        infer = (lambda inputs: client.submit(inputs).result(20)) if asynchronous else client.infer
        infer(INPUT)
        fake.replaced = True
        assert infer({"momenta": INPUT["constituents"]}).attempts == 1
        with pytest.raises(JetError, match="takes the inputs momenta"):
            infer(INPUT)


# ---- shared memory


class Sharing(FakeTriton):
    """Refuses the first region with a status, and takes the others."""

    status = grpc.StatusCode.UNAVAILABLE
    registered = 0

    def SystemSharedMemoryRegister(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self.registered += 1
        if self.registered == 1:
            context.abort(self.status, "not now")
        return pb.SystemSharedMemoryRegisterResponse()

    def SystemSharedMemoryUnregister(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.SystemSharedMemoryUnregisterResponse()


@pytest.mark.parametrize(
    ("status", "later"), [(grpc.StatusCode.UNAVAILABLE, 1), (grpc.StatusCode.PERMISSION_DENIED, 0)]
)
def test_shared_memory_is_given_up_for_good_only_where_it_is_refused(status: grpc.StatusCode, later: int) -> None:
    fake = Sharing(lambda number, request, context: answer_to(request, np.zeros((1, 2), np.float32)))
    fake.status = status
    with serving(fake) as (_, address), Client(address, "top_tagger", shared_memory=True) as client:
        for _ in range(3):
            client.submit(INPUT).result(20)
        assert not list(Path("/dev/shm").glob(f"sonic-{os.getpid()}-*")) or later  # noqa: S108 - the kernel's
        regions = [len(request.inputs[0].parameters) > 0 for request in fake.requests]
    assert regions == [False, bool(later), bool(later)]


# ---- outputs of other models


@pytest.mark.parametrize(
    ("output", "content", "expected"),
    [
        (("labels", "BYTES", (-1, 1)), b"\x03\0\0\0top", [[b"top"]]),
        (("halves", "BF16", (-1, 2)), b"\x80\x3f\x00\x40", [[1.0, 2.0]]),
        (("sizes", "INT8", (3,)), b"\1\2\3", [1, 2, 3]),
    ],
)
def test_answers_of_any_type_and_of_models_without_a_batch(
    output: tuple[str, str, tuple[int, ...]], content: bytes, expected: list[Any]
) -> None:
    """They were called lies of the server's, which was then taken out of use."""

    def answer(number: int, request: Any, context: Any) -> Any:
        response = pb.ModelInferResponse(model_name=request.model_name, model_version="1")
        response.outputs.add(name=output[0], datatype=output[1], shape=np.shape(expected))
        response.raw_output_contents.append(content)
        return response

    with serving(FakeTriton(answer, output=output)) as (_, address), Client(address, "top_tagger") as client:
        for _ in range(2):
            assert client.infer(INPUT).outputs[output[0]].tolist() == expected


# ---- a closed client


def _thread(client: Client) -> Any:
    return client.infer(INPUT)


def _loop(client: Client) -> Any:
    return client.submit(INPUT).result(30)


def _jets(client: Client) -> Any:
    return client.tag(random_jets(4))


@pytest.mark.parametrize("call", [_thread, _loop, _jets])
def test_closing_ends_what_is_under_way(call: Callable[[Client], Any]) -> None:
    """At once and by name: requests were sent again to the closed connection until their deadline."""
    fake = FakeTriton(delay=20)
    errors: list[BaseException] = []
    with serving(fake) as (_, address):
        client = Client(address, "top_tagger", deadline=60)
        client.info()

        def run() -> None:
            try:
                call(client)
            except BaseException as error:  # noqa: BLE001 - which it is, is the test
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        while not fake.requests:
            time.sleep(0.01)
        client.close()
        thread.join(10)
        assert not thread.is_alive()
    assert isinstance(errors[0], ServerUnavailableError)
    assert "the client was closed" in str(errors[0])


def test_closing_ends_the_waiting_for_a_server() -> None:
    async def main() -> None:
        with serving(FakeTriton(ready=False)) as (_, address):
            client = AsyncClient(address, "top_tagger")
            waiting = asyncio.create_task(client.infer(INPUT))
            await asyncio.sleep(0.5)
            await client.close()
            with pytest.raises(ServerUnavailableError, match="was closed"):
                await asyncio.wait_for(waiting, 10)

    asyncio.run(main())


# ---- what a caller says of a request


@pytest.mark.parametrize(
    "said",
    [
        {"deadline": 0}, {"deadline": -1.0}, {"deadline": math.nan}, {"deadline": "5"}, {"deadline": True},
        {"request_id": 5}, {"request_id": "\ud800"}, {"traceparent": 7},
        {"parameters": {"a": None}}, {"parameters": {"a": 2**70}}, {"parameters": {1: "a"}},
        {"parameters": {"a": "\ud800"}}, {"parameters": [1]},
    ],
    ids=str,
)  # fmt: skip
def test_a_request_that_cannot_be_sent_is_the_callers(said: dict[str, Any]) -> None:
    fake = FakeTriton()
    with serving(fake) as (_, address), Client(address, "top_tagger") as client:
        for _ in range(2):  # through the loop, and in this thread
            with pytest.raises(ConfigurationError, match=r"expected"):
                client.infer(INPUT, **said)
            sent = len(fake.requests)
            client.infer(INPUT)
            assert len(fake.requests) == sent + 1
        assert next(iter(client.servers().values()))["answered"] == 2


def test_numbers_of_numpy_are_numbers() -> None:
    fake = FakeTriton()
    parameters: Any = {"a": np.int64(3), "b": np.float32(0.5), "c": np.bool_(True)}
    with (
        serving(fake) as (_, address),
        Client(address, "top_tagger", 1, deadline=np.float32(9), max_in_flight=np.int64(3)) as client,
    ):
        client.infer(INPUT, parameters=parameters, deadline=np.float32(5))
    said = fake.requests[0].parameters
    assert (said["a"].int64_param, said["b"].double_param, said["c"].bool_param) == (3, 0.5, True)
    assert fake.requests[0].model_version == "1"


@pytest.mark.parametrize("deadline", [math.inf, 1e300])
def test_without_a_deadline_requests_are_sent(deadline: float) -> None:
    """gRPC waits for ever with one that lies beyond its clock."""
    with serving(FakeTriton()) as (_, address), Client(address, "top_tagger", deadline=deadline) as client:
        for _ in range(2):
            assert client.submit(INPUT).result(20).attempts == 1
            assert client.infer(INPUT).attempts == 1


@pytest.mark.parametrize("token", ["t\u00f6ken", "a\x00b", "a\x7fb", ""])
def test_a_token_that_no_header_can_hold(token: str) -> None:
    with (
        serving(FakeTriton()) as (_, address),
        Client(address, "top_tagger", token=token) as client,
        pytest.raises(ConfigurationError, match="bearer token"),
    ):
        client.infer(INPUT)


@pytest.mark.parametrize("version", ["latest", 1.5, "\u0663", True])
def test_a_version_is_a_number(version: Any) -> None:
    with pytest.raises(ConfigurationError, match="version"):
        Client("localhost:8001", "top_tagger", version)


@pytest.mark.parametrize(
    "url", ["http://..:8000/m", f"http://{'a' * 70}.example:8000/m", "grpc://a b/m", "grpc://a:0/m"]
)
def test_what_is_no_host_is_told_at_once(url: str) -> None:
    with pytest.raises(ConfigurationError, match="no server"):
        Client(url)


# ---- HTTP

METADATA = {
    "name": "m", "versions": ["1"], "platform": "",
    "inputs": [{"name": "constituents", "datatype": "FP32", "shape": [-1, 200, 4]}],
    "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]}],
}  # fmt: skip


@contextmanager
def http_server(metadata: bytes, answer: bytes, headers: dict[str, str]) -> Iterator[str]:
    """What stands where Triton should: it is ready, and answers with these."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

        def _send(self, body: bytes, more: dict[str, str]) -> None:
            self.send_response(200)
            for name, value in ({"Content-Length": str(len(body))} | more).items():
                self.send_header(name, value)
            self.end_headers()
            if self.path.endswith("/ready"):
                time.sleep(0.1)  # the body comes later than its headers: whoever does not wait leaves a connection open
            self.wfile.write(body)

        def do_GET(self) -> None:
            self._send(b"{}" if "stats" in self.path else metadata, {})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._send(answer, headers)

    with answering(Handler) as port:
        yield f"http://127.0.0.1:{port}/m"


PAGE = b"<html>Please log in</html>"
WHOLE = json.dumps(METADATA).encode()


@pytest.mark.parametrize(
    ("metadata", "answer", "headers"),
    [
        (PAGE, b"", {}), (b"", b"", {}), (b"[]", b"", {}), (b"{}", b"", {}), (b"\xff\xfe", b"", {}),
        (WHOLE, PAGE, {}), (WHOLE, b"", {}), (WHOLE, b"[]", {}), (WHOLE, b'{"outputs": [{}]}', {}),
        (WHOLE, PAGE, {"Content-Encoding": "gzip"}), (WHOLE, PAGE, {"Inference-Header-Content-Length": "x"}),
    ],
)  # fmt: skip
def test_a_page_that_is_no_answer_is_a_bad_reply(metadata: bytes, answer: bytes, headers: dict[str, str]) -> None:
    with (
        http_server(metadata, answer, headers) as url,
        Client(url, deadline=5) as client,
        pytest.raises(BadReplyError, match="cannot be decoded"),
    ):
        client.infer(INPUT)
    gc.collect()  # warns of what is open


def test_a_request_that_tritonclient_refuses_costs_no_server() -> None:
    with http_server(WHOLE, b"", {}) as url, Client(url, deadline=5) as client:
        client.info()
        with pytest.raises(InvalidRequestError, match="reserved"):
            client.infer(INPUT, parameters={"sequence_id": 3})
        assert next(iter(client.servers().values()))["state"] == "ready"


# ---- a server that takes requests and does nothing

SERVER = """
import time
from tests.clients.fake_server import FakeTriton, serving
with serving(FakeTriton(delay=0.02)) as (_, address):
    print(address, flush=True)
    time.sleep(600)
"""


def test_a_stopped_server_costs_time_and_no_answer() -> None:
    """Its kernel takes what is sent, so nothing is refused: it was waited for until the deadline, and the job ended."""
    with (
        subprocess.Popen([sys.executable, "-c", SERVER], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process,
        serving(FakeTriton(delay=0.02)) as (_, healthy),
    ):
        try:
            assert process.stdout is not None
            stopped = process.stdout.readline().strip()
            with Client([stopped, healthy], "top_tagger", deadline=45, max_in_flight=4) as client:
                jets = random_jets(30)
                expected = client.tag(jets)
                assert all(about["answered"] for about in client.servers().values())
                process.send_signal(signal.SIGSTOP)
                assert np.array_equal(client.tag(jets), expected)
                assert client.servers()[f"grpc://{stopped}"]["state"] == "out"
        finally:
            process.kill()
