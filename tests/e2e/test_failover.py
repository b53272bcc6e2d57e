"""A device that fails in service: the next takes over with the same bits, and the request in flight is repeated."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tests.e2e.conftest import COMPLETE, Service, Traffic, complete, images, serving, write_model
from tests.support.driver import faulty_driver
from triton_server.supervisor.processes import state

pytestmark = pytest.mark.server

BACKEND = Path(__file__).parent / "faulty_backend"
DEVICES = "unbuildable,first,reference"
MORE = """
max_batch_size: 8
dynamic_batching { max_queue_delay_microseconds: 300000 }
parameters { key: "device_timeout_s" value { string_value: "1" } }
parameters { key: "self_test_interval_s" value { string_value: "1" } }
"""
STALL = ("--stall", "6")
IMPATIENT = 'parameters { key: "open_timeout_s" value { string_value: "24" } }\n'
"""What hangs is given up after 3 s in a child, 24 s in an instance, and 6 s at a start, an eighth of the usual."""


@pytest.fixture
def fault(tmp_path: Path) -> Path:
    return tmp_path / "fault"


@pytest.fixture(params=["true", "false"], ids=["overlap", "one at a time"])
def service(tmp_path: Path, tiny_onnx: Path, fault: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    repository = tmp_path / "models"
    overlap = f'parameters {{ key: "overlap" value {{ string_value: "{request.param}" }} }}\n'
    write_model(repository, "tiny", tiny_onnx, device=DEVICES, more=MORE + overlap + complete(tiny_onnx, None))
    environment = {"TRITON_FPGA_TEST_FAULT": str(fault)}
    with serving(repository, COMPLETE, backend=BACKEND, environment=environment) as running:
        yield running


def test_a_device_that_was_taken_out_is_back_when_the_model_is_loaded_anew(service: Service, fault: Path) -> None:
    expected = service.infer("grpc", "tiny", images())
    fault.write_text("lost")
    np.testing.assert_array_equal(service.infer("grpc", "tiny", images()), expected)
    fault.unlink()
    service.wait_for(lambda: service.metric("fpga_self_tests_total", 'device="reference"') >= 1)
    service.wait_for(lambda: service.metric("fpga_model_info", 'device="reference"') == 1)
    with tritonclient.http.InferenceServerClient(service.urls["http"]) as client:
        client.unload_model("tiny", headers=service.admin)
        service.wait_for(lambda: service.metric("fpga_model_info") == 0, what="nothing that answers")
        client.load_model("tiny", headers=service.admin)
    service.wait_for(lambda: service.metric("fpga_model_info", 'device="first"') == 1)
    assert service.metric("fpga_model_info") == 1, "of the device that answered before nothing is left"
    np.testing.assert_array_equal(service.infer("grpc", "tiny", images()), expected)
    assert not service.restarts()


def test_a_model_that_lost_its_last_device_is_loaded_anew_alone(tmp_path: Path, tiny_onnx: Path, fault: Path) -> None:
    repository = tmp_path / "models"
    for name, device in (("tiny", "first"), ("other", "reference")):
        more = 'parameters { key: "self_test_interval_s" value { string_value: "0.5" } }\n' if name == "tiny" else ""
        write_model(repository, name, tiny_onnx, device=device, more=more + complete(tiny_onnx))
    environment = {"TRITON_FPGA_TEST_FAULT": str(fault)}
    with (
        serving(repository, COMPLETE, backend=BACKEND, environment=environment) as service,
        Traffic(service, "other") as others,
    ):
        expected = service.infer("grpc", "tiny", images())
        fault.write_text("lost")
        for _ in range(6):
            with pytest.raises(InferenceServerException) as caught:
                service.infer("grpc", "tiny", images())
            if "no device is left" in str(caught.value):
                assert str(caught.value).endswith("[fpga:no-device] no device is left (first: device lost)")
                assert "UNAVAILABLE" in str(caught.value.status())
            time.sleep(0.5)
        service.wait_for(lambda: "no device is left" in service.status()["refused"].get("tiny", ""))
        fault.unlink()
        service.wait_for(lambda: not service.status()["refused"] and service.get("/ready/tiny")[0] == 200)
        np.testing.assert_array_equal(service.infer("grpc", "tiny", images()), expected)
        assert not service.restarts()
    assert {status for _, _, status, _ in others.answers} == {"ok"}


def test_a_model_whose_device_is_there_later_is_served_then(tmp_path: Path, tiny_onnx: Path, fault: Path) -> None:
    repository = tmp_path / "models"
    for name, device in (("tiny", "first"), ("other", "reference")):
        write_model(repository, name, tiny_onnx, device=device, more=complete(tiny_onnx))
    fault.write_text("missing")
    with serving(
        repository, COMPLETE, backend=BACKEND, environment={"TRITON_FPGA_TEST_FAULT": str(fault)}
    ) as service:  # fmt: skip
        assert "no bitstream" in service.status()["refused"]["tiny"]
        expected = service.infer("grpc", "other", images())
        fault.unlink()
        service.wait_for(lambda: not service.status()["refused"])
        np.testing.assert_array_equal(service.infer("grpc", "tiny", images()), expected)
        assert not service.restarts()
        assert "model 'tiny', which was refused, was loaded" in service.log.read_text()


@pytest.mark.parametrize(
    ("what", "cause"), [("lost", "lost"), ("memory", "lost"), ("hang", "timeout"), ("wrong", "wrong_answer")]
)
def test_the_next_device_answers_with_the_same_bits(service: Service, fault: Path, what: str, cause: str) -> None:
    expected = service.infer("grpc", "tiny", images())
    service.wait_for(lambda: service.metric("fpga_model_info", 'device="first"') == 1)
    service.wait_for(lambda: service.metric("fpga_failovers_total", 'device="unbuildable"', 'cause="build"') == 1)
    assert not service.status()["degraded"], "a spare that is not the last"
    fault.write_text(what)
    if what == "wrong":  # nothing fails, so only the known-answer test on the timer can notice
        service.wait_for(lambda: service.metric("fpga_failovers_total", f'cause="{cause}"') == 1)
    np.testing.assert_array_equal(service.infer("grpc", "tiny", images()), expected)
    service.wait_for(lambda: service.metric("fpga_failovers_total", 'device="first"', f'cause="{cause}"') == 1)
    service.wait_for(lambda: service.metric("fpga_model_info", 'device="reference"') == 1)
    assert service.metric("fpga_model_info", 'device="first"') == 0
    service.wait_for(lambda: service.status()["degraded"])
    assert service.get("/ready/tiny")[1]["degraded"]
    assert "triton_fpga_degraded 1.0" in service.get("/metrics")[1]
    assert "tiny version 1: degraded: it serves on reference, the last of its devices" in service.log.read_text()
    assert f"device first is taken out of service ({cause})" in service.log.read_text()
    assert service.get("/ready")[0] == 200
    np.testing.assert_array_equal(service.infer("http", "tiny", images()), expected)


def test_one_bad_request_never_fails_its_batch(service: Service, fault: Path) -> None:
    """Refused by its values, or at fault in the device: the others of the same device call are answered."""
    fault.write_text("poison")
    expected = service.infer("grpc", "tiny", images())
    results: dict[int, object] = {}
    bad_values = images()
    bad_values[0, 0, 0, 0] = np.nan
    poison = images() + 5000

    def ask(number: int) -> None:
        values = {3: bad_values, 5: poison}.get(number, images())
        try:
            results[number] = service.infer("grpc", "tiny", values)
        except InferenceServerException as error:
            results[number] = error

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for number, result in results.items():
        if number == 3:
            assert "'images', row 0: expected finite values" in str(result)
            assert "INVALID_ARGUMENT" in str(result)
        elif number == 5:
            assert "the request fails on a sound device (first)" in str(result)
            assert "INTERNAL" in str(result)
        else:
            assert isinstance(result, np.ndarray), str(result)
            np.testing.assert_array_equal(result, expected)
    service.wait_for(lambda: service.metric("fpga_rejected_requests_total") == 1)
    service.wait_for(lambda: service.metric("fpga_failed_requests_total") == 1)
    assert service.metric("nv_inference_exec_count") < service.metric("nv_inference_count"), "there was a batch"
    assert service.metric("fpga_failovers_total", 'device="first"') == 0, "a request at fault costs no device"


def test_a_driver_that_aborts_the_process_is_survived(service: Service, fault: Path) -> None:
    expected = service.infer("grpc", "tiny", images())
    fault.write_text("abort")
    with pytest.raises(InferenceServerException) as caught:
        service.infer("grpc", "tiny", images())
    assert "UNAVAILABLE" in str(caught.value.status())
    fault.unlink()
    service.wait_for(lambda: service.restarts() and service.get("/ready")[0] == 200)
    np.testing.assert_array_equal(service.infer("grpc", "tiny", images()), expected)


def test_a_model_that_dies_of_its_first_request_does_not_take_the_others_with_it(
    tmp_path: Path, tiny_onnx: Path, fault: Path
) -> None:
    repository = tmp_path / "models"
    write_model(repository, "deadly", tiny_onnx, device="first", more=complete(tiny_onnx), golden=False)
    write_model(repository, "tiny", tiny_onnx, more=complete(tiny_onnx))
    fault.write_text("abort")
    environment = {"TRITON_FPGA_TEST_FAULT": str(fault)}
    with serving(repository, COMPLETE, backend=BACKEND, environment=environment) as service:
        assert service.urls["ready"] is False
        service.wait_for(lambda: "does not survive" in service.status()["refused"].get("deadly", ""))
        service.wait_ready()
        assert service.status()["restarts"] == {"dead": 3}
        service.infer("grpc", "tiny", images())
        fault.unlink()
        config = repository / "deadly" / "config.pbtxt"
        config.write_text(config.read_text() + "# mended\n")
        service.wait_for(lambda: service.infer("grpc", "deadly", images()).shape == (1, 2))
        service.wait_for(lambda: not service.status()["refused"])
        assert service.status()["restarts"] == {"dead": 3}


def test_a_driver_that_aborts_when_a_device_opens_is_passed_over(tmp_path: Path, tiny_onnx: Path, fault: Path) -> None:
    """At the start and at a load: the next device serves, loudly; and the driver is used again when it is mended."""
    environment = faulty_driver(tmp_path, fault)
    repository = tmp_path / "aborts"
    write_model(repository, "tiny", tiny_onnx, device="cpu,reference", more=complete(tiny_onnx))
    fault.touch()
    with serving(repository, COMPLETE, environment=environment) as service:
        assert service.get("/ready")[0] == 200
        answer = service.infer("grpc", "tiny", images())
        service.wait_for(lambda: service.metric("fpga_model_info", 'device="reference"') == 1)
        service.wait_for(lambda: service.metric("fpga_failovers_total", 'device="cpu"', 'cause="aborted"') == 1)
        told = "device cpu is taken out of service (aborted): the driver ends the process (SIGABRT)"
        assert told in service.log.read_text()
        write_model(repository, "late", tiny_onnx, device="cpu,reference", more=complete(tiny_onnx))
        service.wait_for(lambda: service.get("/ready/late")[0] == 200)
        assert service.restarts() <= 1
        restarts = service.restarts()
        os.kill(service.stub("tiny"), signal.SIGKILL)  # the next start asks again
        service.wait_for(lambda: service.restarts() > restarts and service.get("/ready")[0] == 200)
        service.wait_for(lambda: service.metric("fpga_model_info", 'device="reference"') == 2)
        fault.unlink()
        restarts = service.restarts()
        os.kill(service.stub("tiny"), signal.SIGKILL)
        service.wait_for(lambda: service.restarts() > restarts and service.get("/ready")[0] == 200)
        service.wait_for(lambda: service.metric("fpga_model_info", 'device="cpu"') == 2)
        np.testing.assert_array_equal(service.infer("grpc", "tiny", images()), answer)


def test_a_driver_that_hangs_when_a_device_opens_is_passed_over(tmp_path: Path, tiny_onnx: Path, fault: Path) -> None:
    """At the start, in each of three instances, and at a load in service, where the others serve on until it shows."""
    environment = faulty_driver(tmp_path, fault)
    repository = tmp_path / "hangs"
    three = complete(tiny_onnx) + "instance_group [ { kind: KIND_CPU count: 3 } ]\n"
    write_model(repository, "tiny", tiny_onnx, device="cpu,reference", more=three + IMPATIENT)
    fault.write_text("hang")
    with serving(repository, COMPLETE, *STALL, environment=environment) as service:
        assert service.get("/ready")[0] == 200
        told = "device cpu is taken out of service (aborted): the driver does not come back when the device is opened"
        assert told in service.log.read_text()
        service.wait_for(lambda: service.metric("fpga_failovers_total", 'device="cpu"', 'cause="aborted"') == 3)
        answer = service.infer("grpc", "tiny", images())
        write_model(repository, "late", tiny_onnx, device="cpu,reference", more=complete(tiny_onnx) + IMPATIENT)
        service.wait_for(lambda: '"loading: late:1"' in service.log.read_text())
        assert service.get("/ready/late")[0] != 200
        np.testing.assert_array_equal(service.infer("grpc", "tiny", images()), answer)
        service.wait_for(lambda: service.get("/ready/late")[0] == 200, 120)
        np.testing.assert_array_equal(service.infer("grpc", "late", images()), answer)


def test_a_driver_that_hangs_at_a_failover_is_passed_over(tmp_path: Path, tiny_onnx: Path, fault: Path) -> None:
    """The device in use is lost, and the next one never opens: the one after it serves after a single restart."""
    environment = faulty_driver(tmp_path, fault)
    repository = tmp_path / "hangs_later"
    write_model(repository, "tiny", tiny_onnx, device="first,cpu,reference", more=complete(tiny_onnx) + IMPATIENT)
    with serving(repository, COMPLETE, *STALL, backend=BACKEND, environment=environment) as service:
        answer = service.infer("grpc", "tiny", images())
        fault.write_text("lost hang")
        with pytest.raises(InferenceServerException) as caught:
            service.infer("grpc", "tiny", images())
        assert "UNAVAILABLE" in str(caught.value.status())
        service.wait_for(lambda: service.restarts() and service.get("/ready")[0] == 200, 200)
        starts = service.log.read_text().count('"loading: tiny:1"')
        assert starts == 2, "the next start found the note of the opening, and tried the device in a child first"
        np.testing.assert_array_equal(service.infer("grpc", "tiny", images()), answer)
        service.wait_for(lambda: service.metric("fpga_failovers_total", 'device="cpu"', 'cause="aborted"') == 1)
        assert service.metric("fpga_model_info", 'device="reference"') == 1


def test_a_stop_with_a_busy_device_is_bounded(tmp_path: Path, tiny_onnx: Path, fault: Path) -> None:
    repository = tmp_path / "busy"
    more = MORE.replace('"1"', '"60"') + complete(tiny_onnx, None)
    write_model(repository, "tiny", tiny_onnx, device="first", more=more)
    environment = {"TRITON_FPGA_TEST_FAULT": str(fault)}
    with serving(repository, COMPLETE, "--exit-timeout", "1", backend=BACKEND, environment=environment) as service:
        fault.write_text("busy")
        client = service.client("grpc")
        thread = threading.Thread(target=_ask_quietly, args=(service, client))
        thread.start()
        time.sleep(0.5)
        began = time.monotonic()
        service.process.terminate()
        assert service.process.wait(15) == 0
        assert time.monotonic() - began < 8
        thread.join(10)


@pytest.mark.parametrize("victim", ["supervisor", "server"])
def test_a_stub_that_hangs_with_pythons_lock_outlives_nobody(
    service: Service, tmp_path: Path, fault: Path, victim: str
) -> None:
    stub = service.stub("tiny")
    fault.write_text("lock")
    thread = threading.Thread(target=_ask_quietly, args=(service, service.client("grpc")))
    thread.start()
    time.sleep(1.0)
    os.kill(service.process.pid if victim == "supervisor" else service.server_pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while state(stub) not in ("", "Z") and time.monotonic() < deadline:
        time.sleep(0.05)
    ended = state(stub) in ("", "Z")
    if not ended:
        os.kill(stub, signal.SIGKILL)
    thread.join(30)
    assert ended
    if victim == "supervisor":
        service.process.wait()
        with serving(tmp_path / "models", COMPLETE):
            pass  # the next one clears what the killed one could not


def _ask_quietly(service: Service, client: object) -> None:
    import contextlib

    with contextlib.suppress(InferenceServerException):
        service.infer("grpc", "tiny", images(), client=client)
