"""The demonstration: a server started, jets tagged, scores and plots shown."""

from fpga_ops.moved_modules import former_names

__getattr__ = former_names(__name__, "sonic_client.demo.demo")
