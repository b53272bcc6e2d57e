"""Devices at ties: scales of powers of two, a mean over 36 pixels of one scale, sums of fifths, odd zero points."""

from __future__ import annotations

import numpy as np
import pytest

from fpga_ops import vector
from fpga_ops.ir import exact, reference
from fpga_ops.ir.network import Add, Conv, GlobalAveragePool, IntegerNetwork, Tensor
from fpga_ops.ir.requantise import accumulator_range, add_rule, requantise, zero_point_correction


def tied_network(zero_point: int, relu: bool, seed: int = 0) -> IntegerNetwork:
    """A convolution, one with a residual sum, a sum of other scales and a mean; a large share of results are ties."""
    rng = np.random.default_rng(seed)
    scales = {"image": 0.25, "c1": 0.5, "c2": 5.0, "sum": 6.0, "mean": 6.0}
    zeros = {"image": 3, "c1": zero_point, "c2": zero_point, "sum": zero_point, "mean": zero_point}
    sizes = {name: (1, 1, 16) if name == "mean" else (6, 6, 4 if name == "image" else 16) for name in scales}
    tensors = {name: Tensor(name, *sizes[name], scales[name], zeros[name]) for name in scales}
    low = zero_point if relu else 0

    def end(name: str) -> tuple[float, int]:
        return scales[name], zeros[name]

    def conv(source: str, output: str, step: tuple[float, int], **more: object) -> Conv:
        weights = (rng.integers(-2, 3, (16, 3, 3, sizes[source][2])) * 16).astype(np.int8)
        real = exact.Dyadics.of(np.full(16, scales[source] * 2.0**-6))
        bias = exact.Dyadics.of(rng.integers(-8, 8, 16) * step[0] / 2)
        correction = zero_point_correction(weights, zeros[source])
        rule = requantise(exact.affine(real, bias, 1, step, correction, *accumulator_range(weights)), low)
        return Conv(output, source, output, weights, rule, pads=(1, 1, 1, 1), **more)  # type: ignore[arg-type]

    own = (0.5, zero_point)
    fused = add_rule(own, end("c1"), end("c2"))
    mean = exact.affine(
        exact.Dyadics.of(np.full(16, 6.0)),
        exact.Dyadics.of(np.zeros(16)),
        36,
        end("mean"),
        36 * zero_point,
        0,
        36 * 255,
    )
    steps = (
        conv("image", "c1", end("c1")),
        conv("c1", "c2", own, residual="c1", add=fused),
        Add("sum", "c2", "c2", "sum", add_rule(end("c2"), end("c2"), end("sum"), low)),
        GlobalAveragePool("mean", "sum", "mean", requantise(mean, low)),
    )
    return IntegerNetwork(("image",), ("mean", "sum"), tensors, steps)


@pytest.mark.parametrize("zero_point", [0, 7, 128])
@pytest.mark.parametrize("relu", [False, True])
def test_devices_round_ties_as_the_definition(zero_point, relu, tmp_path):
    network = tied_network(zero_point, relu)
    rules = [network.steps[0].requantise, network.steps[1].add, network.steps[2].add, network.steps[3].requantise]
    assert any(np.any(np.asarray(rule.mask) != -1) for rule in rules)
    assert any(rule.coarse for rule in rules)
    assert any(rule.increment for rule in rules) == bool(zero_point % 2)
    rng = np.random.default_rng(1)
    images = {"image": (rng.integers(-130, 130, (3, 4, 6, 6)) * 0.125).astype(np.float32)}  # half of them ties as well
    executable = vector.compile(network, 3, cache_dir=tmp_path)
    got = executable.run(images)
    executable.close()
    expected = reference.ReferenceExecutable(network).run(images)
    for name in network.outputs:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)


def test_the_reference_is_the_definition():
    """Every result of a network with ties against exact fractions, one by one."""
    network = tied_network(7, True)
    rng = np.random.default_rng(2)
    image = rng.integers(0, 256, (1, 6, 6, 4)).astype(np.uint8)
    values = reference.run_integers(network, {"image": image})
    first, second, plain, mean = network.steps
    accumulators = reference.accumulate(image, first, 3)
    for place in np.ndindex(accumulators.shape):
        rule = first.requantise
        expected = exact.affine_value(rule.exact, place[-1], int(accumulators[place]), rule.low, rule.high)
        assert values["c1"][place] == expected
    own = reference.requantise(reference.accumulate(values["c1"], second, 7), second.requantise)
    for place in np.ndindex(own.shape):
        fused = exact.sum_value(second.add.exact, int(own[place]), int(values["c1"][place]), 0, 255)
        assert values["c2"][place] == fused
        assert values["sum"][place] == exact.sum_value(plain.add.exact, fused, fused, plain.add.low, 255)
    for channel, total in enumerate(values["sum"].sum((0, 1, 2), dtype=int).tolist()):
        assert values["mean"][0, 0, 0, channel] == exact.affine_value(
            mean.requantise.exact, channel, total, mean.requantise.low, 255
        )
