"""Retraining of the served networks: jets, images, training, quantisation, evaluation and publishing."""

from fpga_ops.moved_modules import redirect
from retrain.old_paths import MOVED

redirect(MOVED)
