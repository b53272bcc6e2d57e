"""Calls of a device that are given up, and those that are not."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from triton_server.plugin.device_thread import DeviceThreads

CALL = """
import time
from triton_server.plugin.device_thread import DeviceThreads

def device(inputs):
    for _ in range(10):
        time.sleep(0.1)
    return "answer"

print("calling", flush=True)
print(DeviceThreads().call(device, {}, 2.0), flush=True)
"""


def test_a_pause_of_the_process_is_no_time_of_the_devices() -> None:
    """A container that is paused for longer than a call may take goes on with its device afterwards."""
    with subprocess.Popen([sys.executable, "-c", CALL], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "calling\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGSTOP)
        time.sleep(3.0)
        process.send_signal(signal.SIGCONT)
        assert process.stdout.read() == "answer\n"
    assert process.returncode == 0


def test_a_call_without_end_is_given_up_in_time() -> None:
    threads = DeviceThreads()
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"the device gave no answer in 0\.6 s"):
        threads.call(lambda _: time.sleep(5), {}, 0.6)
    assert time.monotonic() - began >= 0.6
    threads.end(abandon=True)
