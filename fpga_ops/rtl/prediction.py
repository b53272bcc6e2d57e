"""A prediction whose cycles are counted by the simulated RTL instead of the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from fpga_ops.errors import InputError
from fpga_ops.ir.network import IntegerNetwork
from fpga_ops.overlay import boards
from fpga_ops.overlay.boards import Board
from fpga_ops.overlay.descriptor import Op
from fpga_ops.overlay.model.cycles import Prediction, external, rtl_channels
from fpga_ops.rtl.executable import RtlExecutable, RtlSettings
from fpga_ops.rtl.model import pipeline_lag
from fpga_ops.rtl.simulation import Memory


def simulated(
    prediction: Prediction, network: IntegerNetwork, board: Board, cache_dir: Path | None = None
) -> Prediction:
    """The same prediction with every layer's cycles counted, at its clock.

    Products are simulated as written; the stages that a board's DSP blocks have more (its `lag`) are added to each
    layer. What stays on the chip is brought there before. Cycles do not depend on the image.

    Args:
        prediction: What the model said.
        network: The network that it is about.
        board: Memory and geometry.
        cache_dir: Where simulation models are kept; None means the user's cache.

    Raises:
        InputError: The board takes the overlay in OpenCL.
        DeviceError: Verilator or a compiler is missing or fails, or the geometry has no form in RTL.
    """
    geometry, clock = prediction.plan.geometry, prediction.clock_mhz
    if not board.takes_rtl:
        raise InputError(
            f"board {board.name} takes the overlay in OpenCL, whose cycles are modelled; simulated are those of "
            + ", ".join(name for name in boards.names() if boards.load(name).takes_rtl)
        )
    channels, rate = rtl_channels(board, geometry, clock)
    latency = external(board, geometry, clock).latency
    memory = Memory(channels=channels, latency=latency, bytes_per_cycle=rate)
    images = prediction.plan.images
    executable = RtlExecutable(
        network, images, geometry, images=images, settings=RtlSettings(memory=memory), cache_dir=cache_dir
    )
    try:
        zeros = {name: np.zeros((images, *network.tensors[name].shape), np.uint8) for name in network.inputs}
        executable.run_integers(zeros)
    finally:
        executable.close()
    more = max(0, geometry.lag - pipeline_lag(geometry))
    layers = tuple(
        replace(layer, cycles=float(counted.cycles + (0 if layer.op in (Op.LOAD.name, Op.STORE.name) else more)))
        for layer, counted in zip(prediction.layers, executable.layers[0], strict=True)
    )
    cycles = sum(layer.cycles for layer in layers)
    device_ms = cycles / clock / 1e3
    slowest = max(device_ms, prediction.plan.input_bytes / board.pcie_gbs / 1e6)
    return replace(
        prediction,
        layers=layers,
        cycles=cycles,
        device_ms=device_ms,
        inferences_per_s=images * 1e3 / slowest,
        mac_utilisation=sum(layer.ideal for layer in layers) / cycles,
    )
