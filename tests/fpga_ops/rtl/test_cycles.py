"""Cycles that the simulated RTL counts, beside the model's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fpga_ops.errors import InputError
from fpga_ops.overlay import Geometry, boards
from fpga_ops.overlay.descriptor import Op
from fpga_ops.overlay.model.cycles import External, layer_times, predict
from fpga_ops.overlay.plan import plan
from fpga_ops.rtl import Memory, RtlExecutable, pipeline_lag
from fpga_ops.rtl.prediction import simulated
from tests.fpga_ops.overlay.checks import integer_images
from tests.fpga_ops.overlay.test_exact import conv_net
from tests.fpga_ops.rtl.conftest import Simulate
from tests.fpga_ops.rtl.test_exact import SMALL
from tests.support import networks

TRANSFERS = (Op.LOAD, Op.STORE)  # begin with the latency of external memory, which the model does not have


def compare(executable: RtlExecutable, memory: External) -> list[tuple[str, Op, int, float]]:
    """(layer, operation, cycles counted, cycles modelled) of a run."""
    times = layer_times(executable.plan, memory)
    layers = zip(executable.plan.descriptors, executable.layers[0], times, strict=True)
    return [(d.name, d.op, counted.cycles, modelled.cycles) for d, counted, modelled in layers]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("images", [1, 2])
def test_every_layer_takes_what_the_model_says(simulate: Simulate, images: int) -> None:
    """To the cycle, where memory is fast: work, results beyond it, and the drain that the RTL's pipeline has."""
    network = networks.resnet((1, 1), 16, (64, 64, 1), classes=10)
    geometry = replace(SMALL, lag=pipeline_lag(SMALL, "plain"))
    executable = simulate(network, geometry, images=images)
    executable.run_integers(integer_images(network, images))
    for name, op, counted, modelled in compare(executable, External(geometry.wb, geometry.wb)):
        if op not in TRANSFERS:
            assert counted == modelled, name


@pytest.mark.timeout(600)
@pytest.mark.parametrize("rate", [16.0, 8.0])
def test_a_network_that_waits_for_weights_keeps_memory_busy(simulate: Simulate, rate: float) -> None:
    """One channel brings weights, constants, image and descriptors: the run takes what these bytes take."""
    network = conv_net((7, 7, 128), 256, (3, 3), pads=(1, 1, 1, 1))
    executable = simulate(network, SMALL, memory=Memory(bytes_per_cycle=rate))
    executable.run_integers(integer_images(network, 1))
    planned = executable.plan
    needed = (
        planned.weight_words * SMALL.wb + planned.parameter_blocks * 16 * SMALL.lane
        + planned.input_bytes + planned.output_bytes + 256 * len(planned.descriptors)
    )  # fmt: skip
    assert sum(layer.waits["weights"] for layer in executable.layers[0]) > 0.25 * executable.cycles
    assert executable.cycles - executable.checking_cycles == pytest.approx(needed / rate, rel=0.02)
    modelled = layer_times(planned, External(rate, rate, latency=40))
    assert executable.cycles - executable.checking_cycles == pytest.approx(sum(x.cycles for x in modelled), rel=0.03)


def test_queues_hold_no_more_than_they_can(simulate: Simulate) -> None:
    network = networks.resnet((1, 1), 16, (64, 64, 1), classes=10)
    executable = simulate(network, SMALL, memory=Memory(bytes_per_cycle=5.0))
    executable.run_integers(integer_images(network, 1))
    peaks = {name: max(layer.peaks[name] for layer in executable.layers[0]) for name in executable.layers[0][0].peaks}
    depths = {"image": 64, "constants": 32, "weights": SMALL.weight_depth, "act": 16, "acc": 8, "result": 16}
    assert all(0 < peaks[name] <= depth for name, depth in depths.items()), peaks


def geometry_of(vec: int) -> Geometry:
    return Geometry(vec, 64, 7)


def test_the_lag_is_that_of_the_stages() -> None:
    """31 for the blocks, and the products': one; a chain of four, a correction and a tree; eleven blocks and two."""
    assert [pipeline_lag(geometry_of(32), form) for form in ("plain", "dsp48e2", "dsp58")] == [32, 41, 44]


@pytest.mark.timeout(600)
def test_a_prediction_from_simulated_cycles(simulate: Simulate) -> None:
    """On a board of the small geometry: close to the model's, and told layer by layer."""
    network = networks.resnet((1, 1), 16, (64, 64, 1), classes=10)
    board = boards.load("u250")
    geometry = replace(SMALL, lag=pipeline_lag(SMALL, "dsp48e2"))
    board = replace(board, geometry=geometry, restart=0)
    modelled = predict(plan(network, geometry), board, 300.0)
    counted = simulated(modelled, network, board)
    assert counted.cycles == pytest.approx(modelled.cycles, rel=0.03)
    with pytest.raises(InputError, match=r"stratix10 takes the overlay in OpenCL.*stratix10-rtl, u250"):
        simulated(modelled, network, boards.load("stratix10"))
    assert counted.cycles == sum(layer.cycles for layer in counted.layers)
    assert counted.device_ms == pytest.approx(counted.cycles / 300e3)
    for a, b in zip(counted.layers, modelled.layers, strict=True):
        if a.op not in ("LOAD", "STORE"):
            assert a.cycles == pytest.approx(b.cycles, rel=0.02), a.name
