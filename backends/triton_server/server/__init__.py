"""One Triton server process: found, assembled, started and stopped."""

from fpga_ops.moved_modules import former_names

__getattr__ = former_names(__name__, "triton_server.server.server")
