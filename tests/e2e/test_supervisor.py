"""The failures of facts about Triton 2.51, made for real: each is noticed and mended without a human."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.conftest import COMPLETE, SERVE, Service, Traffic, complete, images, leftovers, serving, write_model
from triton_server.supervisor.processes import descendants, find_stubs, state

pytestmark = pytest.mark.server

RECOVERY_S = 5.0
QUICK_S = 0.9
"""Below the second that Triton itself waits before it answers INTERNAL."""
START_S = 3.0
"""What a start takes on a quiet machine; the limits above grow with it on a busy one."""
RETRYABLE = {"ok", "StatusCode.UNAVAILABLE", "503"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_onnx: Path) -> Service:
    repository = tmp_path_factory.mktemp("supervised") / "models"
    for name in ("tiny", "other"):
        write_model(repository, name, tiny_onnx, more=complete(tiny_onnx))
    with serving(repository, "--probe-interval", "0.5") as running:
        yield running


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP])
def test_a_stub_that_dies_or_stops_is_back_in_seconds(service: Service, number: int) -> None:
    service.wait_ready()
    expected = service.infer("grpc", "tiny", images())
    restarts = service.restarts()
    with Traffic(service, "tiny", ("grpc", "grpc", "http")) as traffic:
        time.sleep(0.5)
        os.kill(service.stub("tiny"), number)
        struck = time.monotonic()
        service.wait_for(lambda: service.restarts() > restarts and service.get("/ready")[0] == 200)
        time.sleep(1.5)
    failures = {status for status in traffic.statuses() if not status.startswith("connection")}
    assert failures <= RETRYABLE, "UNAVAILABLE is worth a retry; INTERNAL is not"
    slowness = 1.0 if service.start_s < 1.5 * START_S else 2 * service.start_s / START_S
    assert traffic.longest_failure() < QUICK_S * slowness
    assert traffic.outage() < RECOVERY_S * slowness
    last = [answer for began, _, status, answer in traffic.answers if status == "ok" and began > struck]
    assert last, "it serves again"
    np.testing.assert_array_equal(last[-1], expected)


def test_a_killed_server_is_back_and_leaves_no_stubs(service: Service) -> None:
    service.wait_ready()
    pid = service.server_pid
    stubs = [stub.pid for stub in find_stubs(pid)]
    os.kill(pid, signal.SIGKILL)
    service.wait_for(lambda: service.get("/ready")[0] == 200 and service.status()["server_pid"] not in (None, pid))
    assert all(state(stub) in ("", "Z") for stub in stubs)
    assert len(leftovers(service.process.pid)) == len(find_stubs(service.server_pid))


def test_a_retrying_client_loses_nothing(service: Service) -> None:
    service.wait_ready()
    answers: list[np.ndarray] = []

    def ask(number: int) -> None:
        deadline = time.monotonic() + 40
        while True:
            try:
                answers.append(service.infer("grpc", "tiny", images(seed=number)))
            except Exception:  # noqa: BLE001 - whatever it is, it is retried
                assert time.monotonic() < deadline
                time.sleep(0.1)
            else:
                return

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for number, thread in enumerate(threads):
        if number == 10:
            os.kill(service.stub("tiny"), signal.SIGKILL)
        thread.start()
        time.sleep(0.02)
    for thread in threads:
        thread.join(30)
    assert len(answers) == 20


def test_the_truth_is_told(service: Service) -> None:
    service.wait_ready()
    assert service.get("/live")[0] == 200
    assert service.get("/ready/tiny")[0] == 200
    assert service.get("/ready/nothing")[0] == 503
    assert service.get("/nothing")[0] == 404
    restarts = service.restarts()
    os.kill(service.stub("other"), signal.SIGKILL)
    service.wait_for(lambda: service.get("/ready")[0] == 503, 2.0, "the truth")
    service.wait_ready()
    assert service.restarts() == restarts + 1
    service.wait_for(lambda: "triton_fpga_ready 1" in service.get("/metrics")[1])
    state = 'triton_fpga_model_state{model="tiny",state="serving",version="1"} 1'
    service.wait_for(lambda: state in service.get("/metrics")[1])


def test_rates_come_from_tritons_own_counters(service: Service) -> None:
    def answered() -> float:
        rows = [row for row in service.status()["activity"] if row["model"] == "tiny"]
        return sum(max(row["per_s"], default=0.0) for row in rows)

    service.wait_for(lambda: service.status()["activity"], what="a first look at the counters")
    for _ in range(40):
        service.infer("grpc", "tiny", images())
    service.wait_for(lambda: answered() > 1.0, what="a rate above that of known answers, one in two seconds")


def test_events_are_shown_where_the_operator_says_so_and_only_there(service: Service, repository: Path) -> None:
    service.infer("grpc", "tiny", images())
    assert service.status()["events"] is None
    with serving(repository, COMPLETE, "--show-events") as showing:
        assert showing.status()["events"] == [], "nobody has asked yet"
        scores = showing.infer("grpc", "tiny", images())
        showing.wait_for(lambda: showing.status()["events"])
        (event,) = showing.status()["events"]
        assert (event["model"], event["version"]) == ("tiny", "1")
        np.testing.assert_allclose(next(iter(event["outputs"].values())), scores[0], atol=1e-6)
        np.testing.assert_allclose(event["image"], images()[0].astype(float).sum(0), atol=1e-5)


def command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")[:150].decode(errors="replace")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_told_stop_is_clean(repository: Path, number: int) -> None:
    with serving(repository, COMPLETE, under=["env", "--default-signal=HUP"]) as service:
        service.infer("grpc", "tiny", images())
        assert service.stop(number) == 0  # what is left behind is checked by serving()
        assert "submit a bug report" not in service.log.read_text(), "a stub crashed while it ended"


def test_nohup_is_respected(repository: Path) -> None:
    with serving(repository, COMPLETE, under=["env", "--ignore-signal=HUP"]) as service:
        service.process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        service.infer("grpc", "tiny", images())


def test_a_stop_with_a_stopped_stub_is_bounded(repository: Path) -> None:
    with serving(repository, COMPLETE, "--exit-timeout", "1") as service:
        os.kill(service.stub("tiny"), signal.SIGSTOP)
        began = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - began < 6


def test_a_stop_with_live_connections_is_bounded(repository: Path) -> None:
    with serving(repository, COMPLETE, "--exit-timeout", "1") as service, Traffic(service, "tiny"):
        time.sleep(0.5)
        began = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(10) == 0
        assert time.monotonic() - began < 6


def test_nothing_outlives_a_killed_supervisor(repository: Path) -> None:
    with serving(repository, COMPLETE) as service:
        below = descendants(service.process.pid)
        assert below
        service.process.kill()
        service.process.wait()
        deadline = time.monotonic() + 5
        while any(state(pid) not in ("", "Z") for pid in below) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not [(pid, state(pid), command(pid)) for pid in below if state(pid) not in ("", "Z")]
        left = leftovers(service.process.pid)
        with serving(repository, COMPLETE):  # the next one clears what the killed one could not
            assert not set(left) & set(leftovers(service.process.pid))


@pytest.mark.parametrize("later_s", [0.0, 0.3])
def test_nothing_outlives_a_supervisor_killed_while_it_starts(tmp_path: Path, tiny_onnx: Path, later_s: float) -> None:
    """Triton's processes that complete a configuration waited for ever for a server that nobody had reaped."""
    repository = tmp_path / "models"
    write_model(repository, "bare", tiny_onnx)
    program = [sys.executable, "-c", SERVE, "--model-repository", str(repository)]
    for port in ("http", "grpc", "metrics", "health"):
        program += [f"--{port}-port", "0"]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(program, stdout=log, stderr=log) as process:
        below: list[int] = []
        while not any(find_stubs(pid) for pid in (process.pid, *below)):
            assert process.poll() is None, (tmp_path / "log").read_text()
            below = descendants(process.pid)
            time.sleep(0.005)
        time.sleep(later_s)
        below = descendants(process.pid)
        process.kill()
    deadline = time.monotonic() + 15
    while any(state(pid) not in ("", "Z") for pid in below) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [(pid, state(pid), command(pid)) for pid in below if state(pid) not in ("", "Z")]
    with serving(repository):  # which clears the shared memory
        assert not leftovers(process.pid)


def test_a_stub_killed_while_it_loads_does_not_stop_the_others(tmp_path: Path, tiny_onnx: Path) -> None:
    repository = tmp_path / "models"
    write_model(repository, "tiny", tiny_onnx, more=complete(tiny_onnx))
    with serving(repository, COMPLETE, "--probe-interval", "0.5") as service:
        pid = service.server_pid
        known = {stub.pid for stub in find_stubs(pid)}
        write_model(repository, "late", tiny_onnx, more=complete(tiny_onnx))
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            fresh = [stub.pid for stub in find_stubs(pid) if stub.pid not in known]
            if fresh:
                os.kill(fresh[0], signal.SIGKILL)
                break
            time.sleep(0.005)
        assert fresh, "no stub came to be killed"
        service.wait_ready()
        assert service.infer("grpc", "tiny", images()).shape == (1, 2)


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    import subprocess
    import sys

    from tests.e2e.conftest import SERVE

    command = [sys.executable, "-c", SERVE, "--model-repository", str(tmp_path / "nothing"), "--http-port", "0",
               "--grpc-port", "0", "--metrics-port", "0", "--health-port", "0"]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert "no model repository at" in ended.stderr
