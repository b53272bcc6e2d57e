"""A driver that kills the process when it is first used: the next start finds it out in a child, and goes on without.

A note is on disk while a device is opened and asked its first known answer. A process that finds the note of one that
died there tries the device in a child process first. So a sound start pays nothing, a process that was killed by
somebody else costs its successor a second, and a driver that aborts costs one restart.

`python -m triton_server.plugin.first_use MODEL DEVICE MAX_BATCH` is the child.
"""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from fpga_ops.errors import DeviceError

NOTES_VARIABLE = "TRITON_FPGA_NOTES"
"""Environment variable with the folder of the notes, which outlives a server; the supervisor sets it."""
TRIAL_TIMEOUT_S = 60.0
_OPENS = b"opens the device"


class DeviceAbortedError(DeviceError):
    """A device whose driver ends the process, or never comes back, when the device is opened."""


class FirstUse:
    """Keeps the notes of one instance, in ``folder`` (None: nowhere, and nothing is tried)."""

    def __init__(self, folder: Path | None, instance: str, model: Path, max_batch: int) -> None:
        self._folder = folder
        self._instance = instance
        self._model = model
        self._max_batch = max_batch
        self._note: Path | None = None

    def begin(self, device: str | None) -> None:
        """Note that the device is about to be opened.

        Raises DeviceAbortedError when a process has died here before, and a child does so too.
        """
        self.survived()
        if self._folder is None:
            return
        key = hashlib.sha256("\n".join((self._instance, str(self._model), device or "auto")).encode())
        note = self._folder / key.hexdigest()[:16]
        if note.exists():
            try_out(self._model, device, self._max_batch)
        note.touch()
        self._note = note

    def survived(self) -> None:
        """The process lives on after the device was used."""
        if self._note is not None:
            self._note.unlink(missing_ok=True)
            self._note = None


def try_out(model: Path, device: str | None, max_batch: int, timeout_s: float = TRIAL_TIMEOUT_S) -> None:
    """Open and use a device in a child process. What it fails with in an orderly way is not of interest here.

    Raises DeviceAbortedError when the child dies or hangs.
    """
    # The stub is no Python to start, but the server's PATH has the right one first.
    command = ["python3", "-m", "triton_server.plugin.first_use", str(model), device or "auto", str(max_batch)]
    search = os.pathsep.join(filter(None, sys.path))
    try:
        outcome = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": search}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, timeout=timeout_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise DeviceAbortedError(f"the driver does not come back in {timeout_s:g} s when the device opens") from error
    code = outcome.returncode
    if code and _OPENS in outcome.stdout:  # else no Python was found, which says nothing about the device
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        raise DeviceAbortedError(f"the driver ends the process ({how}) when the device is opened")


def main() -> int:
    """Open the device and compute something on it."""
    import numpy as np

    import fpga_ops
    from triton_server.plugin.version import describe_onnx

    model, device, max_batch = sys.argv[1:]
    print(_OPENS.decode(), flush=True)  # noqa: T201 - to the one who started this
    with (
        contextlib.suppress(Exception),  # what is raised is for the instance itself to meet
        fpga_ops.load(model, None if device == "auto" else device, max_batch=int(max_batch)) as network,
    ):
        described, _ = describe_onnx(Path(model))
        network.run({t.name: np.zeros([1, *(max(1, size) for size in t.dims)], np.float32) for t in described})
    return 0


if __name__ == "__main__":
    sys.exit(main())
