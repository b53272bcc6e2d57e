"""The overlay in SystemVerilog (`sv/`), and a device that simulates it cycle by cycle.

See docs/explanation/fpga-rtl.md. `model` has Verilator and a C++ compiler make a library of it;
`executable` runs networks on that. Nothing here is needed by the other devices.
"""

from __future__ import annotations

from fpga_ops.rtl.executable import LayerCycles, RtlExecutable, RtlSettings, compile  # noqa: A004
from fpga_ops.rtl.model import pipeline_lag
from fpga_ops.rtl.simulation import Memory

__all__ = ["LayerCycles", "Memory", "RtlExecutable", "RtlSettings", "compile", "pipeline_lag"]
