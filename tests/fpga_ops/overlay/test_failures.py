"""What goes wrong is said with the numbers, and the process lives on."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fpga_ops.errors import DeviceError
from fpga_ops.overlay import Geometry, OverlayExecutable, boards, executable
from fpga_ops.overlay import compile as compile_overlay
from fpga_ops.overlay.build import bitstream, emulator
from fpga_ops.overlay.build.bitstream import Manifest
from fpga_ops.runtime import emulator_place
from tests.fpga_ops.overlay.checks import integer_images
from tests.fpga_ops.overlay.conftest import Emulate
from tests.support import networks

SMALL = Geometry(16, 16, 7)
pytestmark = pytest.mark.timeout(900)  # the emulator's threads spin, which a busy machine makes slow


def small_network():
    builder = networks.Builder(np.random.default_rng(0))
    return builder.build(builder.conv(builder.input(8, 8, 16), 16, (3, 3)))


def test_a_corrupt_descriptor_is_found_by_the_device(emulate: Emulate, monkeypatch: pytest.MonkeyPatch) -> None:
    def corrupt(descriptors):
        table = encode(descriptors)
        table[1, 7] ^= 1 << 5
        return table

    encode = executable.encode
    monkeypatch.setattr(executable, "encode", corrupt)
    with pytest.raises(DeviceError, match="descriptor 1 has a wrong checksum"):
        emulate(small_network(), SMALL)
    monkeypatch.setattr(executable, "verify", lambda table: -1)
    network = small_network()
    device = emulate(network, SMALL)
    for _ in range(2):  # nothing is left in the channels
        with pytest.raises(DeviceError, match="descriptor 1 failed its checksum; nothing was run"):
            device.run_integers(integer_images(network, 1))
    assert device.usable


def test_a_hanging_kernel_times_out_and_the_process_lives(emulate: Emulate, monkeypatch: pytest.MonkeyPatch) -> None:
    def starve(descriptors):  # `array` waits for weights that `weights` never sends
        for d in descriptors:
            if d["w_words"]:
                d.values["w_words"] -= 1
        return encode(descriptors)

    encode = executable.encode
    monkeypatch.setattr(executable, "encode", starve)
    network = small_network()
    device = emulate(network, SMALL)
    device.settings = replace(device.settings, timeout=3.0)
    with pytest.raises(DeviceError, match=r"no answer in 3 s; the device hangs and is out of use"):
        device.run_integers(integer_images(network, 1))
    assert not device.usable
    with pytest.raises(DeviceError, match="out of use"):
        device.run_integers(integer_images(network, 1))
    monkeypatch.undo()
    healthy = emulate(network, SMALL)
    assert healthy.run_integers(integer_images(network, 1))


def test_a_process_that_dies_is_reported(emulate: Emulate) -> None:
    network = small_network()
    device = emulate(network, SMALL)
    device._child.process.kill()
    device._child.process.wait()
    with pytest.raises(DeviceError, match="its process ended"):
        device.run_integers(integer_images(network, 1))
    assert not device.usable


def test_batches_beyond_the_maximum_are_refused(emulate: Emulate) -> None:
    network = small_network()
    device = emulate(network, SMALL, max_batch=1)
    with pytest.raises(DeviceError, match="a batch of 2 is beyond max_batch 1"):
        device.run_integers(integer_images(network, 2))
    assert device.run_integers(integer_images(network, 0))[network.outputs[0]].shape == (0, 6, 6, 16)


def test_a_missing_emulator_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(emulator_place.DIRECTORY_VARIABLE, str(tmp_path / "none"))
    assert emulator_place.find() is None
    with pytest.raises(DeviceError, match="triton-fpga emulator install"):
        OverlayExecutable(small_network(), 1, SMALL)


def test_a_wheel_of_other_content_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "x-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("x-1.data/data/lib/libone.so", b"same")
        archive.writestr("x-1.data/data/lib/libone.so.1", b"same")
        archive.writestr("x-1.data/data/lib/icx-lto.so", b"unused")
    with pytest.raises(DeviceError, match="SHA-256"):
        emulator._unpack(wheel, "0" * 64, tmp_path / "prefix")
    emulator._unpack(wheel, hashlib.sha256(wheel.read_bytes()).hexdigest(), tmp_path / "prefix")
    names = sorted(path.name for path in (tmp_path / "prefix" / "lib").iterdir())
    assert names == ["libone.so", "libone.so.1"]
    assert (tmp_path / "prefix" / "lib" / "libone.so.1").is_symlink()


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(bitstream.DIRECTORY_VARIABLE, str(tmp_path))
    monkeypatch.delenv(bitstream.BOARD_VARIABLE, raising=False)
    return tmp_path


def put(shelf: Path, board: str = "stratix10", **changes: object) -> Path:
    geometry = replace(boards.load(board).geometry, map_words=(100, 100))
    content = b"bitstream"
    manifest = Manifest(board, bitstream.key(geometry), geometry, hashlib.sha256(content).hexdigest(), 301.5)
    path = shelf / f"{board}.json"
    replace(manifest, **changes).write(path)
    path.with_suffix(".aocx").write_bytes(content)
    return path


def test_the_bitstream_of_these_sources_is_found(shelf: Path) -> None:
    path = put(shelf)
    aocx, manifest = bitstream.find()
    assert aocx == path.with_suffix(".aocx")
    assert manifest.clock_mhz == 301.5
    assert manifest.geometry.map_words == (100, 100)


def test_a_bitstream_of_other_parameters_is_refused(shelf: Path) -> None:
    put(shelf, geometry=replace(boards.load("stratix10").geometry, map_words=(100, 101)))
    with pytest.raises(DeviceError, match="built from other sources or parameters"):
        compile_overlay(small_network(), 1, device="fpga")


def test_a_bitstream_of_an_arithmetic_with_other_bits_is_refused(shelf: Path) -> None:
    path = put(shelf)
    path.write_text(path.read_text().replace("int8-pairs", "bfp"))
    with pytest.raises(DeviceError, match="arithmetic 'bfp' is none of int8, int8-pairs"):
        compile_overlay(small_network(), 1, device="fpga")


@pytest.mark.parametrize("name", boards.names())
def test_every_board_builds_an_array_that_computes_the_same_bits(name: str) -> None:
    assert boards.load(name).geometry.arithmetic in ("int8", "int8-pairs")


def test_missing_damaged_and_ambiguous_bitstreams_are_refused(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match="triton-fpga build"):
        bitstream.find()
    path = put(shelf)
    path.with_suffix(".aocx").write_bytes(b"flipped")
    with pytest.raises(DeviceError, match="damaged"):
        bitstream.find()
    put(shelf)
    put(shelf, "agilex7")
    with pytest.raises(DeviceError, match=bitstream.BOARD_VARIABLE):
        bitstream.find()
    monkeypatch.setenv(bitstream.BOARD_VARIABLE, "agilex7")
    assert bitstream.find()[1].board == "agilex7"
    path.write_text("{}")
    with pytest.raises(DeviceError, match="not a bitstream manifest"):
        bitstream.find("stratix10")


def test_unknown_devices_are_refused() -> None:
    with pytest.raises(DeviceError, match="only the first"):
        compile_overlay(small_network(), 1, device="fpga:1")
    with pytest.raises(DeviceError, match="no device 'tpu'"):
        compile_overlay(small_network(), 1, device="tpu")
