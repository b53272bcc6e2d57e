"""Integer networks on NDRange OpenCL devices: CPUs and GPUs.

`compile` makes an executable: a plan (tensors placed, weights packed, layers cut into tasks), a program with one copy
of the convolution per shape, and one launch per inference. `restore` makes one of a plan that was kept. Kernels are in
`fpga_ops/kernels/vector`.
"""

from fpga_ops.vector.executable import VectorExecutable, compile, restore  # noqa: A004 (the name that every target has)

__all__ = ["VectorExecutable", "compile", "restore"]
