"""More than can be done: refused at once with UNAVAILABLE, the rest served as fast as ever, memory bounded."""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import tritonclient.grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.e2e.conftest import COMPLETE, Service, complete, images, serving, write_model
from tests.support.proxy import Replica, running
from triton_server.supervisor.outage_responder import RETRY_MS
from triton_server.supervisor.processes import find_stubs

pytestmark = pytest.mark.server

BACKEND = Path(__file__).parent / "faulty_backend"
SERVICE_S = 0.05
"""A device call takes this long ("sleep"), so the saturation is the same on every machine: 20 calls a second."""
MORE = """
max_batch_size: 1
dynamic_batching {
  priority_levels: 2
  default_priority_level: 2
  default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 20000000 allow_timeout_override: true
                         max_queue_size: 8 }
}
"""
"""Bounded by length. The time-out is beyond what eight requests can wait, each behind a sleeping batcher."""
PATIENT = MORE.replace("20000000", "1000000").replace("max_queue_size: 8", "max_queue_size: 2048")
"""As the shipped models: bounded by time. A full queue keeps Triton's batcher asleep for half a second now and then."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_onnx: Path) -> Service:
    folder = tmp_path_factory.mktemp("overload")
    (folder / "fault").write_text("sleep")
    for name, more in (("tiny", MORE), ("patient", PATIENT)):
        write_model(folder / "models", name, tiny_onnx, device="first", more=more + complete(tiny_onnx, None))
    environment = {"TRITON_FPGA_TEST_FAULT": str(folder / "fault")}
    with serving(folder / "models", COMPLETE, backend=BACKEND, environment=environment) as started:
        yield started


def offer(service: Service, rate: float, seconds: float, model: str = "tiny", **options: object) -> Counter[str]:
    """Open loop: ``rate`` requests a second, whatever becomes of them. Returns how many ended how."""
    client = service.client("grpc")
    results: queue.SimpleQueue[str] = queue.SimpleQueue()
    values = images()
    tensor = tritonclient.grpc.InferInput("images", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values)

    def done(result: object, error: InferenceServerException | None) -> None:
        results.put("ok" if error is None else str(error.status()))

    sent = 0
    began = time.monotonic()
    while (now := time.monotonic() - began) < seconds:
        while sent < now * rate:
            client.async_infer(model, [tensor], done, **options)
            sent += 1
        time.sleep(0.005)
    return Counter(results.get(timeout=30) for _ in range(sent))


def test_goodput_holds_at_three_times_the_saturation(service: Service) -> None:
    seconds = 4.0
    maximum = offer(service, 1.2 / SERVICE_S, seconds, "patient")["ok"] / seconds
    flooded = offer(service, 3.0 / SERVICE_S, seconds, "patient")
    assert set(flooded) <= {"ok", "StatusCode.UNAVAILABLE"}
    assert flooded["StatusCode.UNAVAILABLE"] > flooded["ok"]
    # The goal of 0.9 is for a benchmark: 4 s hold two dozen requests, give or take two. Here a collapse is looked for.
    assert flooded["ok"] / seconds > 0.7 * maximum
    assert set(offer(service, 0.5 * maximum, 2.0, "patient")) == {"ok"}, "it recovers within seconds"


def test_refusals_come_at_once(service: Service) -> None:
    client = service.client("grpc")
    pending = threading.Semaphore(0)
    tensor = tritonclient.grpc.InferInput("images", [1, 3, 32, 32], "FP32")
    tensor.set_data_from_numpy(images())
    refused: list[tuple[float, str]] = []

    def done(result: object, error: InferenceServerException | None) -> None:
        if error is not None:
            refused.append((time.monotonic() - began, str(error)))
        pending.release()

    began = time.monotonic()
    for _ in range(30):
        client.async_infer("tiny", [tensor], done)
    for _ in range(30):
        assert pending.acquire(timeout=10)
    assert len(refused) >= 10
    assert all("maximum queue size" in why for _, why in refused)
    assert min(after for after, _ in refused) < 1.0


def test_refusals_through_the_proxy_say_when_to_come_again(service: Service, tmp_path: Path) -> None:
    """Triton's own refusals hold no time; the shipped proxy adds it."""
    values = images()
    tensor = service_pb2.ModelInferRequest.InferInputTensor(name="images", datatype="FP32", shape=values.shape)
    by_grpc = service_pb2.ModelInferRequest(
        model_name="tiny", inputs=[tensor], raw_input_contents=[values.tobytes()]
    )  # fmt: skip
    entry = {"name": "images", "datatype": "FP32", "shape": values.shape, "data": values.ravel().tolist()}
    by_http = json.dumps({"inputs": [entry]})

    def ask(port: int) -> tuple[int, str | None]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        with contextlib.closing(connection):
            connection.request("POST", "/v2/models/tiny/infer", by_http)
            answer = connection.getresponse()
            return answer.status, answer.getheader("Retry-After")

    replica = Replica(*(int(service.urls[name].rpartition(":")[2]) for name in ("grpc", "http", "health")))
    with running("envoy.yaml", replica, tmp_path) as envoy:
        with grpc.insecure_channel(f"127.0.0.1:{envoy.grpc}") as channel:
            infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
            calls = [infer.future(by_grpc, timeout=30) for _ in range(200)]
            told = [(call.code(), dict(call.trailing_metadata()).get("grpc-retry-pushback-ms")) for call in calls]
        with ThreadPoolExecutor(64) as pool:
            answers = list(pool.map(lambda _: ask(envoy.http), range(200)))
    assert set(told) == {(grpc.StatusCode.OK, None), (grpc.StatusCode.UNAVAILABLE, str(RETRY_MS))}
    assert set(answers) == {(200, None), (503, "1")}
    logged = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line.startswith("{")]
    failures = {(503, None), (200, "Unavailable")}
    assert {(entry["status"], entry["grpc"]) for entry in logged} == failures, "failures alone"


def test_small_requests_with_priority_overtake(service: Service) -> None:
    order: list[str] = []
    finished = threading.Semaphore(0)
    client = service.client("grpc")
    tensor = tritonclient.grpc.InferInput("images", [1, 3, 32, 32], "FP32")
    tensor.set_data_from_numpy(images())

    def note(name: str) -> None:
        order.append(name)
        finished.release()

    for _ in range(6):
        client.async_infer("tiny", [tensor], lambda result, error: note("bulk"))
    time.sleep(0.02)
    client.async_infer("tiny", [tensor], lambda result, error: note("urgent"), priority=1)
    for _ in range(7):
        assert finished.acquire(timeout=10)
    assert order.index("urgent") < 4


def test_a_request_may_limit_its_own_wait(service: Service) -> None:
    client = service.client("grpc")
    finished = threading.Semaphore(0)
    tensor = tritonclient.grpc.InferInput("images", [1, 3, 32, 32], "FP32")
    tensor.set_data_from_numpy(images())
    waiting = 5  # so that the queue of eight has room for the supervisor's probe, too
    for _ in range(waiting):
        client.async_infer("tiny", [tensor], lambda result, error: finished.release())
    try:
        with pytest.raises(InferenceServerException, match=r"(?i)timeout") as caught:
            client.infer("tiny", [tensor], timeout=20_000)  # microseconds in the queue
        assert "UNAVAILABLE" in str(caught.value.status())
    finally:  # what is left in the queue would fill that of a second try
        for _ in range(waiting):
            assert finished.acquire(timeout=10)


def test_memory_is_bounded_whatever_clients_do(service: Service) -> None:
    def resident() -> int:
        pids = [service.server_pid, *(stub.pid for stub in find_stubs(service.server_pid))]
        return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 for pid in pids)

    offer(service, 100, 2.0)
    before = resident()
    offer(service, 300, 4.0)
    assert resident() - before < 64 << 20
