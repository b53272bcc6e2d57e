"""The FPGA engine: an overlay in OpenCL that interprets layer descriptors. See docs/explanation/fpga-overlay.md.

`compile` makes an executable for the emulator or a board; `plan` and `cycles` say what it will take; `emulator`
installs and finds Intel's FPGA emulator.
"""

from fpga_ops.overlay.errors import DoesNotFitError
from fpga_ops.overlay.executable import EmulatorSettings, OverlayExecutable, compile  # noqa: A004
from fpga_ops.overlay.geometry import Geometry
from fpga_ops.overlay.plan import Plan, plan

__all__ = ["DoesNotFitError", "EmulatorSettings", "Geometry", "OverlayExecutable", "Plan", "compile", "plan"]
