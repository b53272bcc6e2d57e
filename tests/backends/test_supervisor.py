"""The supervisor's judgement, without a server."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from triton_server.errors import ControlError, ServerStartError
from triton_server.repository.admission import Verdict
from triton_server.server.control_api import Control
from triton_server.server.server import TritonServer
from triton_server.supervisor import supervisor as module
from triton_server.supervisor.outage_responder import Gate
from triton_server.supervisor.probe import Answer, KnownAnswer
from triton_server.supervisor.processes import Stub, state
from triton_server.supervisor.supervisor import (
    Limits,
    ModelHealth,
    ModelState,
    Supervisor,
    clean_reason,
    fingerprints,
    read_metrics,
)


@pytest.fixture(autouse=True)
def _with_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's process counts as there: `running` alone asks, nothing is started."""
    monkeypatch.setattr(TritonServer, "running", True)


@pytest.fixture
def watcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    supervisor = Supervisor(TritonServer(tmp_path), limits=Limits(slow=0.05, hung=0.2, hung_at_work=0.4))
    known = KnownAnswer("tiny", "1", "x", "FP32", np.zeros((1, 1), np.float32), "y", None)
    supervisor.models = {("tiny", "1"): ModelHealth(known)}
    supervisor._up = True
    monkeypatch.setattr(supervisor, "_gone", lambda known: False)
    return supervisor


def answer(monkeypatch: pytest.MonkeyPatch, reply: Answer | Exception, after_s: float = 0.0) -> None:
    def ask(*_: Any) -> Answer:
        time.sleep(after_s)
        if isinstance(reply, Exception):
            raise reply
        return reply

    monkeypatch.setattr(module, "ask", ask)


@pytest.mark.parametrize(
    ("reply", "after_s", "state", "ready"),
    [
        (Answer(True, "equal"), 0.0, ModelState.SERVING, True),
        (Answer(True, "equal"), 0.1, ModelState.SLOW, True),
        (ControlError("Exceeds maximum queue size", 503), 0.0, ModelState.BUSY, True),
        (Answer(False, "off by 1"), 0.0, ModelState.WRONG, False),
        (ControlError("unexpected RuntimeError", 500), 0.0, ModelState.WRONG, False),
        (TimeoutError("timed out"), 0.2, ModelState.HUNG, False),
    ],
    ids=["serving", "slow", "busy", "wrong", "error", "hung"],
)
def test_states_are_told_apart(
    watcher: Supervisor, monkeypatch: pytest.MonkeyPatch, reply: Answer | Exception, after_s: float, state: str,
    ready: bool,
) -> None:  # fmt: skip
    answer(monkeypatch, reply, after_s)
    watcher._probe_all()
    assert (watcher.models["tiny", "1"].state, watcher.ready) == (state, ready)
    assert bool(watcher._trouble) == (state == ModelState.HUNG)


def test_one_wrong_answer_is_noted_and_two_are_acted_on(watcher: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, Answer(False, "off by 1"))
    watcher._probe_all()
    assert not watcher._trouble
    answer(monkeypatch, Answer(True, "equal"))
    watcher._probe_all()
    answer(monkeypatch, Answer(False, "off by 1"))
    watcher._probe_all()
    assert not watcher._trouble
    watcher._probe_all()
    assert watcher._trouble[0][0] == "wrong"


def test_a_stub_that_triton_gave_up_is_acted_on_at_once(watcher: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, ControlError("Stub process 'tiny_0' is not healthy.", 500))
    watcher._probe_all()
    assert watcher._trouble[0][0] == "hung"


def test_silence_at_work_is_slow_for_a_while(watcher: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(1, 100))
    monkeypatch.setattr(module, "find_stubs", lambda pid: [Stub(1, "tiny_0")])
    monkeypatch.setattr(module, "tree_cpu_seconds", lambda pid: float(next(seconds)))
    monkeypatch.setattr(TritonServer, "pid", 1)
    answer(monkeypatch, TimeoutError("timed out"), 0.2)
    watcher._probe_all()
    assert watcher.models["tiny", "1"].state is ModelState.SLOW
    watcher._probe_all()
    watcher._probe_all()
    assert watcher.models["tiny", "1"].state is ModelState.HUNG


def test_a_strict_supervisor_is_not_ready_after_a_failover(tmp_path: Path) -> None:
    for strict in (False, True):
        supervisor = Supervisor(TritonServer(tmp_path), strict_device=strict)
        known = KnownAnswer("tiny", "1", "x", "FP32", np.zeros((1, 1), np.float32), "y", None)
        supervisor.models = {("tiny", "1"): ModelHealth(known, state=ModelState.SERVING, failovers=1)}
        supervisor._up = True
        assert supervisor.ready is not strict


def test_without_a_server_process_nothing_is_ready(watcher: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, Answer(True, "equal"))
    watcher._probe_all()
    assert watcher.ready
    monkeypatch.setattr(TritonServer, "running", False)
    assert not watcher.ready


def test_a_server_that_falls_silent_at_its_start_has_not_started(
    watcher: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_: object, **__: object) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(TritonServer, "start", lambda server: server)
    monkeypatch.setattr(Control, "index", silent)
    with pytest.raises(ServerStartError, match="did not answer for its models: timed out"):
        watcher._start_server(Gate("127.0.0.1", 0, 0))


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
    monkeypatch: pytest.MonkeyPatch, program: str, reaped_after_s: float | None, told: bool
) -> None:
    monkeypatch.setattr(module, "TOLD_S", 2.0 if told else 0.1)
    stub = subprocess.Popen([sys.executable, "-c", program])
    deadline = time.monotonic() + 30
    while state(stub.pid) != "Z" and time.monotonic() < deadline:
        time.sleep(0.001)
    late = threading.Timer(reaped_after_s or 1.0, stub.wait)  # Triton, which waits for what it told to end
    late.start()
    assert Supervisor._was_told_to_end(stub.pid) is told
    late.join()


def test_old_news_is_dropped(watcher: Supervisor) -> None:
    watcher._generation = 2
    watcher._report("dead", "a stub of the server before", 1)
    assert not watcher._trouble
    watcher._report("dead", "a stub", 2)
    assert watcher._trouble


def test_what_triton_refuses_is_tried_again_more_and_more_rarely(
    watcher: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    tried: list[tuple[float, str]] = []

    def load(control: Control, model: str) -> None:
        tried.append((now, model))
        raise ControlError("no such device", 400)

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(Control, "load", load)
    watcher.refused = {"absent": "no device", "swapped": "other SHA-256", "tiny": "version 2 is faulty, 1 serves"}
    verdict = Verdict(refused={"swapped": "other SHA-256"})
    while now < 4000:
        watcher._load_later(verdict)
        now += 1.0
    assert tried == [(at, "absent") for at in (5, 15, 35, 75, 155, 315, 635, 1235, 1835, 2435, 3035, 3635)]


def test_a_refused_model_whose_load_stalls_is_acted_on(watcher: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(control: Control, model: str) -> None:
        raise TimeoutError

    monkeypatch.setattr(module, "RETRY_S", (0.0, 0.0))
    monkeypatch.setattr(Control, "load", load)
    watcher.refused = {"absent": "no device"}
    with pytest.raises(TimeoutError):  # which ends this look at the repository
        watcher._load_later(Verdict())
    assert [cause for cause, _ in watcher._trouble] == ["stalled"]


def test_an_instance_is_told_from_one_of_a_longer_name() -> None:
    assert Stub(1, "tiny_0").runs("tiny")
    assert Stub(1, "tiny_0_1").runs("tiny")
    assert not Stub(1, "tiny_late_0").runs("tiny")
    assert not Stub(1, "tiny").runs("tiny"), "that is auto-completion"


def test_reasons_lose_their_wrapping() -> None:
    reason = (
        "Internal: TritonModelException: tiny version 1: node 'x' (Sigmoid): unsupported\n\nAt:\n  model.py(3): f\n"
    )
    assert clean_reason(reason) == "tiny version 1: node 'x' (Sigmoid): unsupported"
    assert clean_reason("unable to open") == "unable to open"


def test_metrics_are_read() -> None:
    text = '# HELP x y\nfpga_model_info{device="cpu:1",kernel="a b"} 1\nplain 3\nx{a="1"} 2.5e-3\n'
    assert list(read_metrics(text)) == [
        ("fpga_model_info", {"device": "cpu:1", "kernel": "a b"}, 1.0),
        ("x", {"a": "1"}, 0.0025),
    ]


def test_fingerprints_see_what_decides_and_nothing_hidden(tmp_path: Path) -> None:
    version = tmp_path / "tiny" / "1"
    version.mkdir(parents=True)
    (tmp_path / "tiny" / "config.pbtxt").touch()
    (version / "model.onnx").touch()
    before = fingerprints(tmp_path)
    (tmp_path / "tiny" / ".2").mkdir()
    (tmp_path / "tiny" / ".2" / "model.onnx").touch()
    assert fingerprints(tmp_path) == before
    (version / "model.onnx").write_text("x")
    assert fingerprints(tmp_path) != before
