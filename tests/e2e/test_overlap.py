"""While one batch computes the next is taken: every request has one answer, its own, whatever happens meanwhile."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http
from tritonclient.utils import InferenceServerException

import fpga_ops
from tests.e2e.conftest import COMPLETE, Service, complete, images, serving, write_model
from tests.fpga_ops.onnx_models import quantise, resnet

pytestmark = pytest.mark.server

BACKEND = Path(__file__).parent / "faulty_backend"
POLICY = "max_batch_size: 8\ndynamic_batching { max_queue_delay_microseconds: 0 }\n"
REQUESTS = 12
KINDS = ("grpc", "http")


@pytest.fixture(scope="module")
def tenfold_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with ten outputs: of two, different images have the same answer now and then."""
    folder = tmp_path_factory.mktemp("tenfold")
    return quantise(resnet((1,), 16, (3, 32, 32), classes=10, softmax=True), folder / "model.onnx")


@pytest.fixture
def fault(tmp_path: Path) -> Path:
    return tmp_path / "fault"


@pytest.fixture
def service(tmp_path: Path, tenfold_onnx: Path, fault: Path) -> Iterator[Service]:
    """A model on a device that leaves the processor alone: overlap is the default there."""
    repository = tmp_path / "models"
    write_model(repository, "tiny", tenfold_onnx, device="first,reference", more=POLICY + complete(tenfold_onnx, None))
    environment = {"TRITON_FPGA_TEST_FAULT": str(fault)}
    options = ("--exit-timeout", "20")
    with serving(repository, COMPLETE, *options, backend=BACKEND, environment=environment) as running:
        yield running


@pytest.fixture
def expected(tenfold_onnx: Path) -> list[np.ndarray]:
    """Answers to the requests, each of another image."""
    with fpga_ops.load(tenfold_onnx, "reference") as network:
        answers = [next(iter(network.run({"images": image(number)}).values())) for number in range(REQUESTS)]
    assert len({answer.tobytes() for answer in answers}) == REQUESTS
    return answers


@pytest.fixture
def clients(service: Service) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(REQUESTS) as pool:
        yield pool


def image(number: int) -> np.ndarray:
    """``float32[1, 3, 32, 32]``, each number another one."""
    return images(seed=number)


def ask(service: Service, clients: ThreadPoolExecutor, numbers: range = range(REQUESTS)) -> list[Future[np.ndarray]]:
    """A request of each, over gRPC and HTTP in turn, all at once."""
    return [clients.submit(service.infer, KINDS[number % 2], "tiny", image(number)) for number in numbers]


def under_way(fault: Path) -> int:
    """Calls that the device has now."""
    return _at_the_device(fault)[0]


def _at_the_device(fault: Path) -> tuple[int, int]:
    """Calls, and their requests."""
    try:
        calls, requests = map(int, fault.with_suffix(".calls").read_text().split())
    except FileNotFoundError:
        return 0, 0
    return calls, requests


def wait_for_two_calls(service: Service, fault: Path) -> None:
    """And for the other requests to be in the server, which refuses those that come after an unload or a stop."""
    service.wait_for(lambda: under_way(fault) == 2, what="two calls of the device")
    waiting = "nv_inference_pending_request_count"
    service.wait_for(
        lambda: service.metric(waiting, 'model="tiny"') + _at_the_device(fault)[1] == REQUESTS, what="all requests"
    )


def assert_own_answers(futures: list[Future[np.ndarray]], expected: list[np.ndarray]) -> None:
    for future, answer in zip(futures, expected, strict=True):
        np.testing.assert_array_equal(future.result(60), answer)


def test_a_batch_is_on_its_way_while_another_computes(
    service: Service, clients: ThreadPoolExecutor, fault: Path, expected: list[np.ndarray]
) -> None:
    """The device begins only when it has two: each request has its own answer all the same."""
    fault.write_text("pair")
    assert_own_answers(ask(service, clients, range(2)), expected[:2])
    fault.unlink()
    assert_own_answers(ask(service, clients), expected)
    assert not service.restarts()
    assert not service.status()["degraded"]


def test_a_device_that_dies_with_two_batches_is_replaced_once(
    service: Service, clients: ThreadPoolExecutor, fault: Path, expected: list[np.ndarray]
) -> None:
    fault.write_text("pair-lost")
    assert_own_answers(ask(service, clients), expected)
    service.wait_for(lambda: service.metric("fpga_failovers_total", 'device="first"', 'cause="lost"') == 1)
    service.wait_for(lambda: service.metric("fpga_model_info", 'device="reference"') == 1)
    service.wait_for(lambda: service.metric("fpga_inferences_total", 'device="reference"') >= REQUESTS)
    assert not service.restarts()


def test_a_model_that_is_unloaded_with_requests_in_hand_answers_them_first(
    service: Service, clients: ThreadPoolExecutor, fault: Path, expected: list[np.ndarray]
) -> None:
    fault.write_text("held")
    futures = ask(service, clients)
    wait_for_two_calls(service, fault)
    unloading = threading.Thread(target=_control, args=(service, "unload_model"))
    unloading.start()
    grpc = service.client("grpc")  # over HTTP it could meet the server's thread that waits for the unload
    service.wait_for(lambda: not grpc.is_model_ready("tiny", client_timeout=5.0), what="the unload")
    assert not any(future.done() for future in futures)
    fault.unlink()
    assert_own_answers(futures, expected)
    unloading.join(60)
    assert not unloading.is_alive()
    _control(service, "load_model")
    assert_own_answers(ask(service, clients), expected)
    assert not service.restarts()


def test_a_new_version_takes_over_from_one_with_requests_in_hand(
    service: Service, clients: ThreadPoolExecutor, fault: Path, expected: list[np.ndarray], tmp_path: Path
) -> None:
    fault.write_text("held")
    futures = ask(service, clients)
    wait_for_two_calls(service, fault)
    other = quantise(resnet((1,), 16, (3, 32, 32), classes=10, softmax=True, seed=9), tmp_path / "other.onnx")
    write_model(service.repository, "tiny", other, version=2)
    fault.unlink()
    assert_own_answers(futures, expected)
    with fpga_ops.load(other, "reference") as network:
        (new,) = network.run({"images": image(0)}).values()
    service.wait_for(lambda: np.array_equal(service.infer("grpc", "tiny", image(0)), new), what="version 2")
    assert not service.restarts()


def test_a_request_that_is_given_up_in_hand_costs_nothing(
    service: Service, clients: ThreadPoolExecutor, fault: Path, expected: list[np.ndarray]
) -> None:
    """Its answer is sent to nobody, and Triton takes that."""
    fault.write_text("held")
    impatient = clients.submit(service.infer, "grpc", "tiny", image(0), client_timeout=1.0)
    service.wait_for(lambda: under_way(fault) == 1, what="a call of the device")
    futures = ask(service, clients, range(1, REQUESTS))
    assert "DEADLINE_EXCEEDED" in str(impatient.exception(60))
    fault.unlink()
    assert_own_answers(futures, expected[1:])
    assert_own_answers(ask(service, clients), expected)
    assert "could not be sent" not in service.log.read_text()
    assert not service.restarts()


def test_a_stop_leaves_nothing_unanswered(
    service: Service, clients: ThreadPoolExecutor, fault: Path, expected: list[np.ndarray]
) -> None:
    """What the server has taken is answered; what it has not is refused, and nobody is left to wait."""
    fault.write_text("held")
    futures = ask(service, clients)
    wait_for_two_calls(service, fault)
    service.process.send_signal(signal.SIGTERM)
    service.wait_for(lambda: service.get("/ready")[0] == 503, what="not being ready")
    fault.unlink()
    for future, answer in zip(futures, expected, strict=True):
        error = future.exception(60)
        assert error is None or not isinstance(error, TimeoutError)
        if error is None:
            np.testing.assert_array_equal(future.result(), answer)
    assert service.process.wait(60) == 0


def test_clients_of_an_instance_that_dies_with_requests_in_hand_hear_of_it(
    service: Service, clients: ThreadPoolExecutor, fault: Path, expected: list[np.ndarray]
) -> None:
    """Triton holds none of them any more: the server ends with its instance, and so do the connections."""
    fault.write_text("held")
    futures = ask(service, clients)
    wait_for_two_calls(service, fault)
    os.kill(service.stub("tiny"), signal.SIGKILL)
    fault.unlink()
    for number, (future, answer) in enumerate(zip(futures, expected, strict=True)):
        error: Any = future.exception(60)
        if error is None:  # it came in when the server was back
            np.testing.assert_array_equal(future.result(), answer)
        elif KINDS[number % 2] == "grpc" or isinstance(error, InferenceServerException):
            assert str(error.status()) in ("StatusCode.UNAVAILABLE", "503"), repr(error)
        else:
            assert "closed" in repr(error) or isinstance(error, OSError), repr(error)
    service.wait_for(lambda: service.restarts() == 1 and service.get("/ready")[0] == 200)
    assert_own_answers(ask(service, clients), expected)


def _control(service: Service, what: str) -> None:
    with tritonclient.http.InferenceServerClient(service.urls["http"], network_timeout=90.0) as client:
        getattr(client, what)("tiny", headers=service.admin)
