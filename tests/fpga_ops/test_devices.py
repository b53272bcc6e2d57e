"""Device discovery: what is listed, why something is not usable, and the command."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fpga_ops.commands.devices import board_list, register, run
from fpga_ops.devices import devices, find
from fpga_ops.errors import DeviceError
from fpga_ops.overlay import boards
from fpga_ops.runtime import opencl
from fpga_ops.runtime.cache_directory import cache_directory, user_cache, write_atomically

devices_module = importlib.import_module("fpga_ops.devices")  # the package has a function of that name


def test_a_board_says_how_its_overlay_is_built() -> None:
    """`build` refuses those that take RTL, so nothing sends a user there."""
    for info in board_list():
        takes_rtl = boards.load(info.name).takes_rtl
        assert ("from RTL" in info.reason) is takes_rtl, info
        assert ("triton-fpga build" in info.reason) is (not takes_rtl and not info.usable), info


def test_the_reference_is_always_there() -> None:
    info, handle = find("reference")
    assert info.usable
    assert info.kind == "reference"
    assert handle is None


def test_the_cpu_driver_of_the_environment_is_found_without_any_variable() -> None:
    clean = {k: v for k, v in os.environ.items() if k not in (opencl.VENDORS_VARIABLE, "LD_LIBRARY_PATH")}
    code = "from fpga_ops.devices import find; print(find('cpu')[0].platform)"
    outcome = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == "Intel(R) OpenCL"


def test_every_kind_is_listed_with_a_reason() -> None:
    found = devices()
    assert {"cpu", "fpga", "fpga-emulator", "reference"} <= {info.kind for info in found}
    assert all(info.reason for info in found)
    assert len({info.name for info in found}) == len(found)


def test_best_device_is_not_an_emulator() -> None:
    assert find(None)[0].kind in ("gpu", "cpu")


def test_unknown_and_unusable_devices_are_typed_errors() -> None:
    with pytest.raises(DeviceError, match=r"no device 'tpu'; usable here: .*reference"):
        find("tpu")
    unusable = [info for info in devices() if not info.usable]
    for info in unusable:
        with pytest.raises(DeviceError, match="is not usable"):
            find(info.name)


def test_no_driver_at_all_leaves_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opencl, "list_devices", list)
    found = {info.name: info for info in devices()}
    assert not found["cpu"].usable
    assert "intel-opencl-rt" in found["cpu"].reason
    assert find(None)[0].name == "reference"


def test_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    register(parser)
    assert run(parser.parse_args(["--json"])) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {"name", "kind", "platform", "usable", "reason"} <= set(listed[0])


def test_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    register(parser)
    assert run(parser.parse_args([])) == 0
    assert "reference" in capsys.readouterr().out


def test_cache_directory_falls_back(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    folder = cache_directory()
    assert folder.is_dir()
    assert str(folder).startswith(str(tmp_path))


def test_a_driver_that_the_user_chose_is_respected(tmp_path: object) -> None:
    code = "from fpga_ops.runtime import opencl; print(len(opencl.list_devices()))"
    environment = {**os.environ, opencl.VENDORS_VARIABLE: str(tmp_path)}
    outcome = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == "0"


@pytest.mark.emulator
def test_the_emulator_is_told_what_to_compile_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # rounding a single number is what ended the process on CPUs that the emulator's compiler does not know
    source = "kernel void nearest(global float* x, float by) { for (int i = 0; i < 9; ++i) x[i] = rint(x[i] * by); }"
    monkeypatch.delenv(opencl.TARGET_VARIABLE, raising=False)
    device = next(one for one in opencl.list_devices() if one.is_emulator)
    environment = dict(os.environ)
    _, key = opencl.build(opencl.open_context(device), device, source, [], tmp_path)
    assert dict(os.environ) == environment
    monkeypatch.setenv(opencl.TARGET_VARIABLE, "corei7")  # who says it is obeyed, and the programs are kept apart
    _, chosen = opencl.build(opencl.open_context(device), device, source, [], tmp_path)
    assert chosen != key
    assert len(list(tmp_path.glob("program-*.bin"))) == 2


def _python(code: str, **environment: str) -> str:
    outcome = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return outcome.stdout.strip()


TBB = Path(sys.prefix) / "lib" / "libtbb.so.12"


@pytest.mark.skipif(not TBB.is_file(), reason="the CPU driver is not the wheel's")
def test_another_tbb_is_named(tmp_path: Path) -> None:
    """Any other file under TBB's name takes the place of the driver's own."""
    source, library = tmp_path / "tbb.c", tmp_path / "libtbb.so.12"
    source.write_text("int nothing;")
    subprocess.run(["cc", "-shared", "-Wl,-soname,libtbb.so.12", "-o", library, source], check=True)
    listing = "import fpga_ops; print({d.name: (d.usable, d.reason) for d in fpga_ops.devices()})"
    first = _python(f"import ctypes; ctypes.CDLL({str(library)!r})\n{listing}")
    assert f"'cpu': (False, '{library} was loaded first" in first
    assert "no OpenCL CPU driver" not in first
    assert "fpga_ops.devices()" in first
    after = _python(f"{listing}\nimport ctypes; ctypes.CDLL({str(library)!r})\n{listing}").splitlines()
    assert after[0] == after[1]
    assert "'cpu': (True" in after[1]


def test_a_gpu_is_never_taken_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    survey = devices_module._survey()
    handle = next(device for _, device in survey if device is not None)
    gpu = devices_module.DeviceInfo("gpu", "gpu", "some platform", True, "", target="vector")
    monkeypatch.setattr(devices_module, "_survey", lambda: [(gpu, handle), *survey])
    assert find(None)[0].name == "cpu"
    assert find("gpu")[0] is gpu
    assert "untested" in devices_module._verdict(handle, "gpu")[1]


@pytest.mark.parametrize("home", ["/proc/nothing", "/dev/null"])
def test_a_network_runs_without_a_home(home: str, tmp_path: Path) -> None:
    """No cache of any library is opened where it cannot be: neither ours nor pyopencl's own."""
    code = (
        "import numpy as np\nfrom fpga_ops import vector\nfrom tests.support import networks\n"
        "from fpga_ops.runtime.cache_directory import cache_directory\n"
        "n = networks.random_network(np.random.default_rng(0), depth=1)\n"
        "e = vector.compile(n, 1)\n"
        "e.run(networks.random_images(n, 1, np.random.default_rng(1)))\n"
        "import pyopencl.invoker as i\nprint(cache_directory(), i.invoker_cache.container_dir)"
    )
    program = f"import os; os.environ.pop('XDG_CACHE_HOME', None)\n{code}"
    folder, pyopencls = _python(program, HOME=home, TMPDIR=str(tmp_path)).split()
    assert folder.startswith(str(tmp_path))
    assert pyopencls == f"{folder}/pytools"


def test_what_cannot_be_kept_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", "fpga_ops")  # whatever another test has set
    for name in ("first.bin", "second.bin"):
        write_atomically(tmp_path / "gone" / name, b"content")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith(f"{tmp_path / 'gone'}: nothing can be kept (No such file or directory)")


RUN = """
import sys, numpy as np
from fpga_ops import vector
from tests.support import networks
n = networks.random_network(np.random.default_rng(0), depth=1)
if "full" in sys.argv:
    from fpga_ops.runtime import opencl
    opencl.module()
    import pyopencl.invoker as i
    i.invoker_cache.conn.execute("DELETE FROM dict")
    i.invoker_cache.conn.execute("PRAGMA query_only = ON")  # what is stored is refused, as on a full disc
print(vector.compile(n, 1).run(networks.random_images(n, 1, np.random.default_rng(1))).popitem()[1].sum())
"""


def test_a_damaged_cache_of_pyopencls_costs_only_the_cache(tmp_path: Path) -> None:
    answer = _python(RUN, XDG_CACHE_HOME=str(tmp_path))
    (kept,) = tmp_path.glob("**/pytools/*.sqlite")
    assert _python("import sys; sys.argv.append('full')\n" + RUN, XDG_CACHE_HOME=str(tmp_path)) == answer
    kept.write_bytes(b"junk" * 1000)
    assert _python(RUN, XDG_CACHE_HOME=str(tmp_path)) == answer


def test_a_temporary_cache_of_somebody_else_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / f"fpga_ops-{os.getuid()}").symlink_to("/")
    folder = cache_directory()
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder == cache_directory()


def test_a_user_without_home_and_name_has_a_temporary_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An arbitrary UID in a container, where no passwd entry and no variable tells a home."""
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert not user_cache().is_absolute()
    assert cache_directory().parent == tmp_path
