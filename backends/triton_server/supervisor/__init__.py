"""Keeps a Triton server serving without a human."""

from fpga_ops.moved_modules import former_names

__getattr__ = former_names(__name__, "triton_server.supervisor.supervisor")
