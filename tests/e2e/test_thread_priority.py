"""The server's thread of each instance goes before all else, where the system lets it: no other thread does."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.conftest import COMPLETE, complete, images, serving, write_model
from triton_server.supervisor.processes import find_stubs

pytestmark = pytest.mark.server


def go_first(pid: int) -> int:
    """How many threads of a process do."""
    policies = [os.sched_getscheduler(int(thread.name)) for thread in Path(f"/proc/{pid}/task").iterdir()]
    return sum(policy & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR for policy in policies)


def allowed() -> bool:
    """Whether this user may have such threads."""
    answers: list[bool] = []

    def attempt() -> None:
        try:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        except PermissionError:
            answers.append(False)
        else:
            answers.append(True)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return answers[0]


def test_one_thread_of_the_server_for_each_instance(repository: Path, tiny_onnx: Path) -> None:
    write_model(repository, "other", tiny_onnx, more=complete(tiny_onnx))
    each = int(allowed())
    with serving(repository, COMPLETE) as service:
        expected = service.infer("grpc", "tiny", images())
        np.testing.assert_array_equal(service.infer("grpc", "other", images()), expected)
        service.wait_for(lambda: go_first(service.server_pid) == 2 * each, what="the threads that go first")
        assert not any(go_first(stub.pid) for stub in find_stubs(service.server_pid))
        # a model that is loaded later, and the stub that it is given
        service.client("http").unload_model("tiny", headers=service.admin)
        service.client("http").load_model("tiny", headers=service.admin)
        np.testing.assert_array_equal(service.infer("http", "tiny", images()), expected)
        service.wait_for(lambda: len(find_stubs(service.server_pid)) == 2, what="the end of the first stub")
        service.wait_for(lambda: go_first(service.server_pid) == 2 * each, what="the threads that go first")
        assert not any(go_first(stub.pid) for stub in find_stubs(service.server_pid))
        os.kill(service.server_pid, 9)
        service.wait_for(lambda: service.infer("grpc", "tiny", images()) is not None, what="the server after a restart")
        service.infer("grpc", "other", images())
        service.wait_for(lambda: go_first(service.server_pid) == 2 * each, what="the threads after a restart")
