"""The networks, and their training."""

from fpga_ops.moved_modules import former_names

__getattr__ = former_names(__name__, "retrain.network.resnet")
