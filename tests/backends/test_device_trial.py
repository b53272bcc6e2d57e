"""The first use of a device, in processes of their own, with a driver that does not come back."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fpga_ops.onnx_models import quantise, resnet
from tests.support.driver import faulty_driver
from triton_server.plugin import device_trial
from triton_server.plugin.device_trial import DeviceAbortedError, DeviceTrial, try_out


@pytest.fixture(scope="module")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first_use")
    return quantise(resnet((1,), 16, (3, 32, 32), classes=2, softmax=True), folder / "model.onnx")


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file whose presence makes the driver fail; children are this interpreter, with that driver."""
    fault = tmp_path / "fault"
    for name, value in faulty_driver(tmp_path, fault).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    return fault


@pytest.mark.parametrize(
    ("what", "idle_s", "limit_s", "told"),
    [
        ("hang", 3.0, 600.0, "it does nothing for 3 s"),
        ("spin", 8.0, 5.0, "it takes more than 5 s"),
        ("abort", 600.0, 600.0, "SIGABRT"),
    ],
)
def test_a_trial_ends_whatever_the_driver_does_and_leaves_no_process(
    trial: Path, tiny_onnx: Path, what: str, idle_s: float, limit_s: float, told: str
) -> None:
    """Where the trial asks a child of its own what the driver can do, that one's work counts, and it ends too."""
    trial.write_text(what)
    with pytest.raises(DeviceAbortedError, match=told):
        try_out(tiny_onnx, "cpu", 8, limit_s=limit_s, idle_s=idle_s)
    deadline = time.monotonic() + 5
    while (left := _with_driver(trial.parent)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def _with_driver(folder: Path) -> list[str]:
    """Command lines of the processes that have the faulty driver of this test loaded."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(folder) in (process / "maps").read_text() and int(process.name) != os.getpid():
                found.append((process / "cmdline").read_text().replace("\0", " "))
    return found


def test_a_sound_device_passes_the_trial(trial: Path, tiny_onnx: Path) -> None:
    assert not trial.exists()
    try_out(tiny_onnx, "cpu", 8, limit_s=60.0, idle_s=15.0)


def test_an_instance_that_is_busy_for_too_long_at_its_opening_ends_and_leaves_its_note(tmp_path: Path) -> None:
    """Also with Python's lock held: `re` keeps it for the whole of one search."""
    program = f"""
import re
from pathlib import Path
from triton_server.plugin import device_trial
device_trial.DeviceTrial(Path({str(tmp_path)!r}), "tiny_0", Path("model.onnx"), 8, limit_s=1.0).begin("cpu")
re.search("(a+)+b", "a" * 60)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Timeout" in done.stderr
    assert len(list(tmp_path.iterdir())) == 1


def test_an_instance_that_has_opened_its_device_lives_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[bool] = []
    monkeypatch.setattr(device_trial.faulthandler, "cancel_dump_traceback_later", lambda: ended.append(True))
    monkeypatch.setattr(device_trial.faulthandler, "dump_traceback_later", lambda *_, **__: ended.append(False))
    use = DeviceTrial(tmp_path, "tiny_0", Path("model.onnx"), 8)
    use.begin("cpu")
    assert list(tmp_path.iterdir())
    use.survived()
    assert ended == [False, True]
    assert not list(tmp_path.iterdir())
