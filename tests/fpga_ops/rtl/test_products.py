"""Products on DSP48E2 and DSP58 blocks, for every activation and every weight (pair of weights)."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from fpga_ops.rtl import model

VEC = 8


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("top", "define", "latency", "operands"),
    # cycles: overlay_pkg.sv, latency()
    [("dot_pair", "-DPAIR", 3 + 3 + 1 + 1, 2**24), ("dot_three", "-DTHREE", 2 + 3, 2**16)],
)
def test_all_operands(tmp_path: Path, top: str, define: str, latency: int, operands: int) -> None:
    tools = model.find_tools()
    model.translate(tools, {"VEC": VEC}, tmp_path, top)
    bench = Path(__file__).with_name("products.cpp")
    library = ctypes.CDLL(str(model.link(tools, tmp_path, bench, [define, "-O2"])))
    library.products.restype = ctypes.c_int64
    checked = ctypes.c_int64()
    for step in (0, 77777):  # the largest sums; then other operands at each place
        assert library.products(ctypes.c_uint32(step), latency, ctypes.byref(checked)) == 0
        assert checked.value > operands
