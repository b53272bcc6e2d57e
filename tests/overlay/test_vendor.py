"""The build with a stand-in for the vendor's compiler, which writes files of the same form."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from fpga_ops.errors import DeviceError
from fpga_ops.overlay import bitstream, boards, vendor

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
def aoc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "aoc"
    script.write_text(AOC % REPORT)
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv(bitstream.DIRECTORY_VARIABLE, str(tmp_path / "shelf"))
    return tmp_path / "shelf"


def test_the_report_is_read():
    assert vendor.parse_report(REPORT) == vendor.Report(512345, 5101, 3312, 287.5)
    assert vendor.parse_report("nothing") == vendor.Report(None, None, None, None)


def test_a_built_bitstream_is_the_one_that_the_runtime_finds(aoc: Path):
    board = boards.load("stratix10")
    geometry = vendor.with_map_words(board.geometry, [(7168, 100), (200, 7000)])
    said: list[str] = []
    path, report = vendor.build(geometry, board, aoc, say=said.append)
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


def test_the_report_stage_alone_makes_no_bitstream(aoc: Path):
    board = boards.load("arria10")
    path, _ = vendor.build(replace(board.geometry, map_words=(10, 10)), board, aoc, report_only=True, say=str)
    assert path is None
    assert not list(aoc.glob("*.aocx"))


def test_a_failing_compiler_is_reported_with_its_log(aoc: Path):
    board = replace(boards.load("arria10"), name="broken")
    with pytest.raises(DeviceError, match=r"exit code 7; see .*aoc\.log"):
        vendor.build(replace(board.geometry, map_words=(10, 10)), board, aoc, say=str)


def test_without_the_compiler_the_way_to_get_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    board = boards.load("arria10")
    with pytest.raises(DeviceError, match="Intel FPGA SDK for OpenCL"):
        vendor.build(replace(board.geometry, map_words=(10, 10)), board, tmp_path)
