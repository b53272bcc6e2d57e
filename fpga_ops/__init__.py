"""Quantised ONNX models on OpenCL devices, to the bit the same on each.

    import fpga_ops

    network = fpga_ops.load("model.onnx")            # the best usable device; `device="cpu"` and others name one
    outputs = network.run({"images": images})        # float32[N, C, H, W]

Knows nothing of Triton or of physics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

# Imported here, not on demand: the module has the name of the function, and the later of the two would win.
from fpga_ops.devices import DeviceInfo, devices
from fpga_ops.errors import DeviceError, FpgaOpsError, InputError, ModelError
from fpga_ops.moved_modules import redirect
from fpga_ops.old_paths import MOVED

if TYPE_CHECKING:
    from fpga_ops.loading import load
    from fpga_ops.network import Network

__all__ = ["DeviceError", "DeviceInfo", "FpgaOpsError", "InputError", "ModelError", "Network", "devices", "load"]

redirect(MOVED)


def __getattr__(name: str) -> object:
    """`load` and `Network`, imported when they are asked for, because numpy takes a while."""
    if name == "load":
        from fpga_ops import loading

        return loading.load
    if name == "Network":
        from fpga_ops import network

        return network.Network
    raise AttributeError(f"module 'fpga_ops' has no attribute '{name}'")
