"""A driver that kills or blocks the process at its first use: the next start sees it in a child and goes on without.

A note is on disk while a device is opened and asked its first known answer, at the start or in the place of one that
failed in service. A process that finds the note of one that died there tries the device in a child process first. So
a sound start pays nothing, a process that was killed by somebody else costs its successor a second, and a driver that
aborts costs one restart. One that never comes back costs the time until it is noticed, twice: in the instance (whoever
started it ends it when it does nothing for 30 s, and it ends itself after the model's ``open_timeout_s`` when it is
busy), and in the child.

`python -m triton_server.plugin.device_trial MODEL DEVICE MAX_BATCH PARENT_PID` is the child.
"""

import contextlib
import faulthandler
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from fpga_ops.errors import DeviceError
from fpga_ops.runtime.parent_death import end_with
from triton_server.supervisor.processes import tree_cpu_seconds

TRIAL_LIMIT, TRIAL_IDLE = 1 / 2, 1 / 8
"""What a child gets of the time that an instance has, and without any use of the processor by it or its children: 60
and 15 s of 120. The second is below the time after which a start stalls."""
_OPENS = b"opens the device"
_STDERR = 2


class DeviceAbortedError(DeviceError):
    """A device whose driver ends the process, or never comes back, when the device is opened."""


class DeviceTrial:
    """Keeps the notes of one instance, in ``folder`` (None: nowhere, and nothing is tried).

    The instance ends itself when the device is not open, and has not given its known answers, after ``limit_s``.
    """

    def __init__(
        self, folder: Path | None, instance: str, model: Path, max_batch: int, *, limit_s: float = 120.0
    ) -> None:  # fmt: skip
        self._folder = folder
        self._instance = instance
        self._model = model
        self._max_batch = max_batch
        self._limit_s = limit_s
        self._note: Path | None = None

    def begin(self, device: str | None) -> None:
        """Note that the device is about to be opened.

        Raises DeviceAbortedError when a process has died here before, and a child does so too.
        """
        self.survived()
        if self._folder is None:
            return
        # Resolved: the server may see the repository through a link in a run directory, which is another at each start.
        # And as bytes: Triton's Python takes no path for UTF-8 where the locale is C.
        key = hashlib.sha256(os.fsencode("\n".join((self._instance, str(self._model.resolve()), device or "auto"))))
        note = self._folder / key.hexdigest()[:16]
        if note.exists():
            limit_s, idle_s = TRIAL_LIMIT * self._limit_s, TRIAL_IDLE * self._limit_s
            try_out(self._model, device, self._max_batch, limit_s=limit_s, idle_s=idle_s)
        note.touch()
        self._note = note
        # A thread of C, which needs no lock of Python's; the log gets the place where the driver was called.
        faulthandler.dump_traceback_later(self._limit_s, exit=True, file=_STDERR)

    def survived(self) -> None:
        """The process lives on after the device was used."""
        if self._note is not None:
            faulthandler.cancel_dump_traceback_later()
            self._note.unlink(missing_ok=True)
            self._note = None


def try_out(model: Path, device: str | None, max_batch: int, *, limit_s: float, idle_s: float) -> None:
    """Open and use a device in a child process. What it fails with in an orderly way is not of interest here.

    Raises DeviceAbortedError when the child dies, uses no processor for ``idle_s``, or takes longer than ``limit_s``.
    """
    # The stub is no Python to start, but the server's PATH has the right one first.
    command = ["python3", "-m", "triton_server.plugin.device_trial"]
    command += [str(model), device or "auto", str(max_batch), str(os.getpid())]
    search = os.pathsep.join(filter(None, sys.path))
    with subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": search}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as child:  # fmt: skip
        hangs = _wait(child, limit_s, idle_s)
        if hangs:
            child.kill()
            raise DeviceAbortedError(f"the driver does not come back when the device is opened: {hangs}")
        opened = _OPENS in child.communicate()[0]
    code = child.returncode
    if code and opened:  # else no Python was found, which says nothing about the device
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        raise DeviceAbortedError(f"the driver ends the process ({how}) when the device is opened")


def _wait(child: subprocess.Popen[bytes], limit_s: float, idle_s: float) -> str:
    """Wait until the child ends; else says how it hangs."""
    began = worked_at = time.monotonic()
    worked = 0.0
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(0.1)
            return ""
        now, work = time.monotonic(), tree_cpu_seconds(child.pid)
        if work > worked:
            worked, worked_at = work, now
        if now > worked_at + idle_s:
            return f"it does nothing for {idle_s:g} s"
        if now > began + limit_s:
            return f"it takes more than {limit_s:g} s"


def main() -> int:
    """Open the device and compute something on it."""
    import numpy as np

    import fpga_ops

    model, device, max_batch, parent = sys.argv[1:]
    end_with(int(parent))
    print(_OPENS.decode(), flush=True)  # noqa: T201 - to the one who started this
    with (
        contextlib.suppress(Exception),  # what is raised is for the instance itself to meet
        fpga_ops.load(model, None if device == "auto" else device, max_batch=int(max_batch)) as network,
    ):
        inputs = network.describe()["inputs"].items()
        network.run({name: np.zeros([max(1, size) for size in t["shape"]], t["dtype"]) for name, t in inputs})
    return 0


if __name__ == "__main__":
    sys.exit(main())
