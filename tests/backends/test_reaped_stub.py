"""A dead stub that the server has waited for, as Triton does since 2.65 when anybody asks for readiness."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.support.http_server import answering
from triton_server.server.control_api import Control
from triton_server.server.server import TritonServer
from triton_server.supervisor import process_watch
from triton_server.supervisor.limits import Limits
from triton_server.supervisor.process_watch import ProcessWatch
from triton_server.supervisor.processes import Stub, state
from triton_server.supervisor.reaped_stub import is_missed
from triton_server.supervisor.restarts import Restarts


@dataclass
class Triton:
    """The two answers of the control API that count: the index, and the readiness of each model."""

    port: int
    index: list[dict[str, str]] = field(default_factory=list)
    not_ready: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    @property
    def control(self) -> Control:
        return Control("127.0.0.1", self.port)


@pytest.fixture
def triton() -> Iterator[Triton]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            stand_in.asked.append(self.path)
            self._say(200, json.dumps(stand_in.index).encode())

        def do_GET(self) -> None:
            stand_in.asked.append(self.path)
            model = self.path.split("/")[3]
            self._say(400 if model in stand_in.not_ready else 200, b"")

        def _say(self, code: int, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with answering(Handler) as port:
        stand_in = Triton(port)
        yield stand_in


def entry(model: str, state: str = "READY", version: str = "1") -> dict[str, str]:
    return {"name": model, "version": version, "state": state}


SERVED = [("tiny", "1"), ("other", "1")]


def test_a_model_in_the_index_that_is_not_ready_misses_its_stub(triton: Triton) -> None:
    triton.index = [entry("tiny"), entry("other")]
    triton.not_ready = {"tiny"}
    assert is_missed(triton.control, Stub(1, "tiny_0_0"), SERVED)
    assert not is_missed(triton.control, Stub(1, "other_0_0"), SERVED)


def test_one_that_is_unloaded_or_was_replaced_does_not(triton: Triton) -> None:
    triton.not_ready = {"tiny"}
    for state_ in ("UNLOADING", "UNAVAILABLE", "LOADING"):
        triton.index = [entry("tiny", state_)]
        assert not is_missed(triton.control, Stub(1, "tiny_0_0"), SERVED)
    triton.index, triton.not_ready = [entry("tiny")], set()
    assert not is_missed(triton.control, Stub(1, "tiny_0_0"), SERVED), "another stub has taken its place"


def test_nobody_is_asked_for_an_auto_completion(triton: Triton) -> None:
    assert not is_missed(triton.control, Stub(1, "tiny"), SERVED)
    assert not triton.asked


def test_a_server_that_is_away_tells_nothing() -> None:
    assert not is_missed(Control("127.0.0.1", 1), Stub(1, "tiny_0_0"), SERVED)


@pytest.mark.parametrize("dead", [True, False], ids=["died", "was told to end"])
def test_the_supervisor_notices_it_at_once(
    triton: Triton, dead: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tree whose stub died and was waited for by its parent, before the supervisor looked."""
    triton.index = [entry("tiny")]
    triton.not_ready = {"tiny"} if dead else set()
    tree = subprocess.Popen(
        [sys.executable, "-c", "import subprocess, sys\nstub = subprocess.Popen(['sleep', '600'])\n"
         "print(stub.pid, flush=True); stub.wait(); print('waited', flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert tree.stdout is not None
    assert tree.stdin is not None
    stub = Stub(int(tree.stdout.readline()), "tiny_0_0")
    monkeypatch.setattr(TritonServer, "pid", property(lambda server: tree.pid))
    monkeypatch.setattr(TritonServer, "control", property(lambda server: triton.control))
    monkeypatch.setattr(process_watch, "look_at_stubs", lambda _: ([stub] if state(stub.pid) else [], []))
    restarts = Restarts()
    restarts.came_up()
    watch = ProcessWatch(TritonServer(tmp_path), restarts, Limits(watch_interval=0.05), lambda: SERVED)
    watch.watch()
    subprocess.run(["kill", "-9", str(stub.pid)], check=True)
    assert tree.stdout.readline() == "waited\n"
    watch.watch()
    watch.close()
    tree.stdin.close()
    tree.wait()
    tree.stdout.close()
    told = [("dead", f"the stub of tiny_0_0 (process {stub.pid}) has ended")]
    assert [(request.cause, request.detail) for request in restarts.requests] == (told if dead else [])
    assert bool(triton.asked)
