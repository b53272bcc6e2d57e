"""The build with a stand-in for the vendor's compiler, which writes files of the same form."""

from __future__ import annotations

import argparse
import stat
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from fpga_ops import cli
from fpga_ops.commands import build as build_command
from fpga_ops.errors import DeviceError
from fpga_ops.overlay import boards
from fpga_ops.overlay import compile as compile_overlay
from fpga_ops.overlay.build import aoc, bitstream
from fpga_ops.overlay.kernels import source_directory
from tests.support import networks

# The form of an acl_quartus_report.txt of the SDK.
REPORT = """ALUTs: 402,118
Registers: 812,004
Logic utilization: 512,345 / 933,120 ( 55 % )
I/O pins: 103 / 457 ( 23 % )
DSP blocks: 5,101 / 5,760 ( 89 % )
Memory bits: 57,000,000 / 240,046,080 ( 24 % )
RAM blocks: 3,312 / 11,721 ( 28 % )
Actual clock freq: 287.5
Kernel fmax: 288.01
"""

AOC = """#!/bin/sh
echo "aoc $@"
for last; do :; done
case "$last" in
  *broken*) exit 7 ;;
  *.aocr) echo rtl > "$last" ;;
  *.aocx) echo bits > "$last"; mkdir -p quartus; cat > quartus/acl_quartus_report.txt <<'END'
%sEND
  ;;
esac
"""


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "aoc"
    script.write_text(AOC % REPORT)
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv(bitstream.DIRECTORY_VARIABLE, str(tmp_path / "shelf"))
    return tmp_path / "shelf"


def test_the_report_is_read():
    assert aoc.parse_report(REPORT) == aoc.Report(512345, 5101, 3312, 287.5)
    assert aoc.parse_report("nothing") == aoc.Report(None, None, None, None)


def test_a_built_bitstream_is_the_one_that_the_runtime_finds(compiler: Path):
    board = boards.load("stratix10")
    geometry = aoc.with_map_words(board.geometry, [(7168, 100), (200, 7000)])
    said: list[str] = []
    path, report = aoc.build(geometry, board, compiler, say=said.append)
    assert path is not None
    assert report.clock_mhz == 287.5
    assert "-DMAP0_WORDS=7168" in said[0]
    assert "-DMAC_PAIRS=1" in said[0]
    assert f"-board={board.aoc_board}" in said[0]
    assert said[0].index("-rtl") > 0  # the report stage comes first
    found, manifest = bitstream.find()
    assert found == path
    assert manifest.geometry == geometry == replace(board.geometry, map_words=(7168, 7000))
    assert manifest.clock_mhz == 287.5


def test_the_report_stage_alone_makes_no_bitstream(compiler: Path):
    board = boards.load("arria10")
    path, _ = aoc.build(replace(board.geometry, map_words=(10, 10)), board, compiler, report_only=True, say=str)
    assert path is None
    assert not list(compiler.glob("*.aocx"))


def test_a_failing_compiler_is_reported_with_its_log(compiler: Path):
    board = replace(boards.load("arria10"), name="broken")
    with pytest.raises(DeviceError, match=r"exit code 7; see .*aoc\.log"):
        aoc.build(replace(board.geometry, map_words=(10, 10)), board, compiler, say=str)


def test_without_the_compiler_the_way_to_get_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    board = boards.load("arria10")
    with pytest.raises(DeviceError, match="Intel FPGA SDK for OpenCL"):
        aoc.build(replace(board.geometry, map_words=(10, 10)), board, tmp_path)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch):
    """A model file that holds a small network."""
    builder = networks.Builder(np.random.default_rng(0))
    network = builder.build(builder.conv(builder.input(8, 8, 16), 16, (3, 3)))
    monkeypatch.setattr("fpga_ops.commands.tables.read_network", lambda path: network)
    return network


def command(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    build_command.register(parser)
    return build_command.run(parser.parse_args(list(arguments)))


def test_the_command_builds_reports_and_keys(compiler: Path, small, capsys, monkeypatch: pytest.MonkeyPatch):
    """From the command to the bitstream that the runtime chooses; `compiler` is the stand-in of this file."""
    monkeypatch.setenv("COLUMNS", "400")
    assert command("m.onnx", "--board", "stratix10", "--report") == 0
    assert not list(compiler.glob("*.aocx"))
    assert command("m.onnx", "--board", "stratix10") == 0
    text = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert rows["ALM"][2:] == ["512345", "933120"]  # the compiler's figure beside the model's
    assert rows["DSP"][2:] == ["5101", "5760"]
    assert rows["M20K"][2:] == ["3312", "11721"]
    assert rows["MHz"][-1] == "287.5"
    path, manifest = bitstream.find("stratix10")
    assert manifest.key in text
    assert manifest.key in path.name
    assert manifest.clock_mhz == 287.5
    # the runtime takes this bitstream by its key, and gets as far as the driver that is not here
    with pytest.raises(DeviceError, match="no OpenCL platform 'FPGA SDK'"):
        compile_overlay(small, 1, device="fpga")


def test_a_changed_kernel_source_makes_the_bitstream_another(compiler: Path, small, monkeypatch: pytest.MonkeyPatch):
    assert command("m.onnx", "--board", "arria10") == 0
    assert bitstream.find("arria10")
    changed = (source_directory() / "overlay.cl").read_text() + "\n"
    monkeypatch.setattr(bitstream, "kernel_source", lambda: changed)
    with pytest.raises(DeviceError, match="built from other sources or parameters"):
        compile_overlay(small, 1, device="fpga")


def test_without_the_compiler_the_command_ends_with_the_users_exit_code(
    tmp_path: Path, small, capsys, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    entry = EntryPoint("build", "fpga_ops.commands.build", cli.GROUP)
    monkeypatch.setattr(cli, "entry_points", lambda group: [entry])
    code = cli.main(["build", "m.onnx", "--board", "stratix10", "--output", str(tmp_path / "out")])
    assert code == cli.USER_ERROR
    message = capsys.readouterr().err
    assert "'aoc' is not on PATH" in message
    assert "Intel FPGA SDK for OpenCL" in message
    assert not (tmp_path / "out").exists()
