"""How good a network is: scores, metrics with errors, baselines, plots."""

from fpga_ops.moved_modules import former_names

__getattr__ = former_names(__name__, "retrain.evaluation.judging")
