"""What the host does for an image before it goes to a device, measured here: quantisation, and a copy."""

from __future__ import annotations

import statistics
import time

import numpy as np

from fpga_ops.ir import reference
from fpga_ops.ir.network import IntegerNetwork
from fpga_ops.overlay import packing
from fpga_ops.overlay.plan import Plan

REPEATS = 9


def host_ms(network: IntegerNetwork, plan: Plan) -> float:
    """Median milliseconds for an image, from float32 to the bytes that are sent, on this machine and one thread."""
    rng = np.random.default_rng(0)
    images = {}
    for name in network.inputs:
        tensor = network.tensors[name]
        shape = (plan.images, tensor.channels, tensor.height, tensor.width)
        images[name] = rng.uniform(-128 * tensor.scale, 128 * tensor.scale, shape).astype(np.float32)
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        quantised = {name: reference.quantise_input(x, network.tensors[name]) for name, x in images.items()}
        packing.inputs(plan, quantised)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times) / plan.images
