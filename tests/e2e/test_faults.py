"""The faults of Triton that workarounds stand against are still there: a test that fails says which can be taken out.

Each shows its fault on a server without the workaround, on whichever Triton TRITON_SERVER_ROOT points at.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tests.e2e.conftest import ROOT, complete, images, write_model
from triton_server import TritonServer
from triton_server.server import launch
from triton_server.server import server as module
from triton_server.supervisor.processes import find_stubs, state
from triton_server.workarounds.faults import FAULTS

pytestmark = pytest.mark.server

PLUGIN = ROOT / "backends" / "fpga" / "model.py"
STALL_S = 0.45
"""The batcher sleeps for 0.5 s; nothing else of a tiny model takes as long on a machine that does anything at all."""


def without(folder: Path, *lines: str) -> Path:
    """A plugin's folder with a part of ours replaced first."""
    folder.mkdir()
    text = "\n".join([*lines, f"exec(compile(open({str(PLUGIN)!r}).read(), {str(PLUGIN)!r}, 'exec'))"])
    (folder / "model.py").write_text(text + "\n")
    return folder


@pytest.fixture
def repository(tmp_path: Path, tiny_onnx: Path) -> Path:
    more = complete(tiny_onnx) + "dynamic_batching { }\n"
    write_model(tmp_path / "models", "tiny", tiny_onnx, more=more, golden=False)
    return tmp_path / "models"


def tensor() -> tritonclient.grpc.InferInput:
    made = tritonclient.grpc.InferInput("images", [1, 3, 32, 32], "FP32")
    made.set_data_from_numpy(images())
    return made


@pytest.mark.upstream  # by chance: a stall within a minute on a busy machine
def test_the_batcher_sleeps_in(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = without(
        tmp_path / "plugin",
        "from triton_server.workarounds import late_response, thread_priority",
        "late_response.LateResponse.keep_last = lambda self, requests, responses: responses",
        "thread_priority.ThreadPriority.seek = lambda self: None",
    )
    monkeypatch.setattr(module, "backend_folder", lambda: backend)
    monkeypatch.setattr(launch, "yield_to_the_woken", lambda: None)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    stalled = threading.Event()
    deadline = time.monotonic() + 60

    def ask(url: str) -> None:
        with tritonclient.grpc.InferenceServerClient(url) as client:
            while not stalled.is_set() and time.monotonic() < deadline:
                began = time.monotonic()
                client.infer("tiny", [tensor()])
                if time.monotonic() - began > STALL_S:
                    stalled.set()

    try:
        with TritonServer(repository) as server:
            clients = [threading.Thread(target=ask, args=(server.grpc_url,)) for _ in range(4)]
            for client in clients:
                client.start()
            for client in clients:
                client.join()
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert stalled.is_set(), "Triton's batcher lost no wake-up in a minute"


FORM = """
import resource, sys, urllib.request
resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, 8 << 20))
from triton_server import TritonServer
with TritonServer(sys.argv[1]) as server:
    request = urllib.request.Request(f"http://{server.http_url}/v2/models/tiny/infer", b"x" * 40_000_000)
    try:
        urllib.request.urlopen(request, timeout=30).read()
    except OSError:
        pass
    print("ended" if server.wait(5.0) else "serves on")
"""


def test_a_form_ends_a_server_with_the_usual_stack(repository: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", FORM, repository], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "ended", "a form no longer ends Triton"


def test_a_dead_stub_is_not_started_again(repository: Path) -> None:
    with TritonServer(repository) as server, tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        client.infer("tiny", [tensor()])
        (stub,) = find_stubs(server.pid or -1)
        os.kill(stub.pid, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(InferenceServerException):
                client.infer("tiny", [tensor()])
        assert not [found for found in find_stubs(server.pid or -1) if state(found.pid) not in ("", "Z")]
        assert [entry["state"] for entry in server.control.index()] == ["READY"]


def test_each_fault_names_what_there_is() -> None:
    for fault in FAULTS:
        assert not fault.noticed_by or fault.noticed_by in globals(), fault.name
        assert all(importlib.util.find_spec(f"triton_server.{name}") is not None for name in fault.against), fault.name
    folder = ROOT / "backends" / "triton_server" / "workarounds"
    listed = {name.removeprefix("workarounds.") for fault in FAULTS for name in fault.against}
    assert {path.stem for path in folder.glob("*.py")} - {"__init__", "faults"} <= listed
