"""Integer networks on NDRange OpenCL devices: CPUs and GPUs.

`compile` makes an executable: a plan (tensors placed, weights packed, layers cut into tasks), a program with one copy
of the convolution per shape, and one launch per inference. `prepare` makes the plan alone, `restore` an executable of
a plan. Kernels are in `fpga_ops/kernels/vector`.
"""

from fpga_ops.vector.compiler import compile, prepare, restore  # noqa: A004 (the name that every target has)
from fpga_ops.vector.executable import VectorExecutable

__all__ = ["VectorExecutable", "compile", "prepare", "restore"]
