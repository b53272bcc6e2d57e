"""Watching processes, with real ones."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from triton_server.server.server import TritonServer
from triton_server.supervisor import process_watch
from triton_server.supervisor.limits import Limits
from triton_server.supervisor.process_watch import ProcessWatch, was_told_to_end
from triton_server.supervisor.processes import STUB_NAME, Stub, state
from triton_server.supervisor.restarts import Restarts


@pytest.mark.parametrize(
    ("program", "reaped_after_s", "told"),
    [
        ("pass", 0.3, True),
        ("pass", None, False),
        ("raise SystemExit(1)", 0.3, False),
        ("import os; os.kill(os.getpid(), 9)", 0.3, False),
    ],
    ids=["told, Triton is late", "ended unasked", "failed", "killed"],
)
def test_a_stub_that_was_told_to_end_is_told_from_one_that_died(
    program: str, reaped_after_s: float | None, told: bool
) -> None:
    stub = subprocess.Popen([sys.executable, "-c", program])
    while state(stub.pid) != "Z":  # the test's own time-out bounds it
        threading.Event().wait(0.001)
    late = threading.Timer(reaped_after_s or 1.0, stub.wait)  # Triton, which waits for what it told to end
    late.start()
    assert was_told_to_end(stub.pid, 2.0 if told else 0.1) is told
    late.join()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TritonServer:
    """Its process is one that waits to be told to end."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    monkeypatch.setattr(TritonServer, "pid", process.pid)
    made = TritonServer(tmp_path)
    yield made
    process.kill()
    process.communicate()


def test_the_end_of_the_server_is_told_once(server: TritonServer, restarts: Restarts) -> None:
    watch = ProcessWatch(server, restarts, Limits(watch_interval=20.0), list)
    threading.Timer(0.2, lambda: subprocess.run(["kill", "-9", str(server.pid)], check=True)).start()
    watch.watch()
    assert [(one.cause, one.detail) for one in restarts.requests] == [
        ("dead", f"the server (process {server.pid}) has ended")
    ]
    watch.close()


def test_a_stopped_server_is_told_at_the_second_look(server: TritonServer, restarts: Restarts) -> None:
    watch = ProcessWatch(server, restarts, Limits(watch_interval=0.0), list)
    subprocess.run(["kill", "-STOP", str(server.pid)], check=True)
    while state(server.pid or -1) != "T":  # the test's own time-out bounds it
        threading.Event().wait(0.001)
    watch.watch()
    assert not restarts.requests
    watch.watch()
    assert [(one.cause, one.detail) for one in restarts.requests] == [
        ("hung", f"the server (process {server.pid}) is stopped")
    ]
    watch.close()


def test_a_server_that_holds_too_much_is_told(server: TritonServer, restarts: Restarts) -> None:
    watch = ProcessWatch(server, restarts, Limits(watch_interval=0.0, server_bytes=1 << 10), list)
    watch.watch()
    assert [one.cause for one in restarts.requests] == ["memory"]
    watch.close()


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is the server's stub of tiny, as far as is seen."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    monkeypatch.setattr(process_watch, "look_at_stubs", lambda _: ([Stub(process.pid, "tiny_0_0")], []))
    yield process
    process.kill()
    process.communicate()


def test_a_stub_counts_as_stopped_at_the_second_look(
    server: TritonServer, stub: subprocess.Popen[bytes], restarts: Restarts
) -> None:
    """Whatever stopped all processes may let them go on one after the other, the supervisor first."""
    watch = ProcessWatch(server, restarts, Limits(watch_interval=0.0), list)
    for _ in range(2):
        stub.send_signal(signal.SIGSTOP)
        while state(stub.pid) != "T":
            threading.Event().wait(0.001)
        watch.watch()
        assert not restarts.requests
        stub.send_signal(signal.SIGCONT)
        while state(stub.pid) == "T":
            threading.Event().wait(0.001)
        watch.watch()
        assert not restarts.requests
    stub.send_signal(signal.SIGSTOP)
    while state(stub.pid) != "T":
        threading.Event().wait(0.001)
    watch.watch()
    watch.watch()
    assert [(one.cause, one.detail) for one in restarts.requests] == [
        ("hung", f"the stub of tiny_0_0 (process {stub.pid}) is stopped")
    ]
    watch.close()


STUBS = """
import os, shutil, subprocess, sys
stub = shutil.copy("/bin/bash", sys.argv[1])
ended = subprocess.Popen([stub, "-c", "exit"])
os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
others = [subprocess.Popen([stub, "-c", "read", *"12345", name], stdin=subprocess.PIPE) for name in sys.argv[2:]]
print(ended.pid, flush=True)
input()
"""
"""A server with a stub that has ended before anybody looked, and that it does not wait for, and with living ones."""


@pytest.mark.parametrize(
    ("alive", "about"),
    [(["tiny_0"], "deadly"), (["tiny_0", "deadly_0"], ""), ([], "")],
    ids=["its model", "none misses it", "two may"],
)
def test_a_stub_that_ended_before_it_was_seen_is_told(
    tmp_path: Path, restarts: Restarts, monkeypatch: pytest.MonkeyPatch, alive: list[str], about: str
) -> None:
    monkeypatch.setattr(process_watch, "TOLD_S", 0.0)
    program = [sys.executable, "-c", STUBS, str(tmp_path / STUB_NAME), *alive]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        ended = int(process.stdout.readline())
        monkeypatch.setattr(TritonServer, "pid", process.pid)
        served = [("tiny", "1"), ("deadly", "1")]
        watch = ProcessWatch(TritonServer(tmp_path), restarts, Limits(watch_interval=0.0), lambda: served)
        for _ in range(3):
            watch.watch()
        assert [(one.cause, one.detail, one.about) for one in restarts.requests] == [
            ("dead", f"a stub that had just started (process {ended}) has ended", about)
        ]
        assert [watch.has_ended(model) for model, _ in served] == [f"{model}_0" not in alive for model, _ in served]
        watch.close()
        process.communicate("\n")


def test_the_end_of_a_followed_stub_is_known_at_once(
    server: TritonServer, stub: subprocess.Popen[bytes], restarts: Restarts
) -> None:
    watch = ProcessWatch(server, restarts, Limits(watch_interval=0.0), list)
    watch.watch()
    assert not watch.has_ended("tiny")
    stub.kill()
    while state(stub.pid) != "Z":  # the test's own time-out bounds it
        threading.Event().wait(0.001)
    assert watch.has_ended("tiny")
    assert not watch.has_ended("other")
    watch.close()


def test_while_the_server_is_away_nothing_is_watched(server: TritonServer, restarts: Restarts) -> None:
    pauses: list[float] = []
    restarts.went_down()
    ProcessWatch(server, restarts, Limits(server_bytes=0), list, pauses.append).watch()
    assert pauses == [0.02]
    assert not restarts.requests


def test_an_instance_is_told_from_one_of_a_longer_name() -> None:
    assert Stub(1, "tiny_0").runs("tiny")
    assert Stub(1, "tiny_0_1").runs("tiny")
    assert not Stub(1, "tiny_late_0").runs("tiny")
    assert not Stub(1, "tiny").runs("tiny"), "that is auto-completion"
