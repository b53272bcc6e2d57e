"""The reference against sums written out by hand, over random shapes."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fpga_ops.ir import reference
from fpga_ops.ir.network import AddRule, Conv, ExactSum, GlobalAveragePool, MaxPool, Requantise, Tensor
from tests.support import networks

some = settings(derandomize=True, deadline=None, max_examples=40, phases=[Phase.explicit, Phase.generate])
BLANK = networks.blank_rule()


@st.composite
def windows(draw, largest=4):
    kernel = draw(st.tuples(st.integers(1, largest), st.integers(1, largest)))
    pads = tuple(draw(st.integers(0, size - 1)) for size in (*kernel, *kernel))
    size = tuple(draw(st.integers(max(1, k - pads[i] - pads[i + 2]), 7)) for i, k in enumerate(kernel))
    return kernel, draw(st.tuples(st.integers(1, 3), st.integers(1, 3))), pads, size


def out_size(kernel, strides, pads, size):
    return tuple((size[i] + pads[i] + pads[i + 2] - kernel[i]) // strides[i] + 1 for i in range(2))


def draw_bytes(rng, shape, extreme):
    return rng.choice([0, 255], shape).astype(np.uint8) if extreme else rng.integers(0, 256, shape).astype(np.uint8)


@some
@given(windows(), st.sampled_from([(1, 1, 1), (1, 3, 2), (2, 2, 2), (3, 1, 2)]), st.integers(0, 255), st.booleans(),
       st.integers(0, 2**32 - 1))  # fmt: skip
def test_accumulate(window, grouping, zero_point, extreme, seed):
    kernel, strides, pads, size = window
    groups, per_in, per_out = grouping
    rng = np.random.default_rng(seed)
    x = draw_bytes(rng, (2, *size, groups * per_in), extreme)
    low = [-128, 127] if extreme else np.arange(-128, 128)
    weights = rng.choice(low, (groups * per_out, *kernel, per_in)).astype(np.int8)
    step = Conv("c", "x", "y", weights, BLANK, strides, pads, groups)
    height, width = out_size(kernel, strides, pads, size)
    expected = np.zeros((2, height, width, groups * per_out), np.int64)
    for image, oy, ox, oc in np.ndindex(*expected.shape):
        total = 0
        for ky, kx, c in np.ndindex(*kernel, per_in):
            y, v = oy * strides[0] + ky - pads[0], ox * strides[1] + kx - pads[1]
            inside = 0 <= y < size[0] and 0 <= v < size[1]
            value = int(x[image, y, v, (oc // per_out) * per_in + c]) if inside else zero_point
            total += value * int(weights[oc, ky, kx, c])
        expected[image, oy, ox, oc] = total
    np.testing.assert_array_equal(reference.accumulate(x, step, zero_point), expected)


@some
@given(windows(), st.booleans(), st.integers(0, 2**32 - 1))
def test_max_pool(window, extreme, seed):
    kernel, strides, pads, size = window
    x = draw_bytes(np.random.default_rng(seed), (1, *size, 3), extreme)
    got = reference.max_pool(x, MaxPool("m", "x", "y", kernel, strides, pads))
    height, width = out_size(kernel, strides, pads, size)
    for oy, ox in np.ndindex(height, width):
        top, left = oy * strides[0] - pads[0], ox * strides[1] - pads[1]
        window_ = x[0, max(top, 0) : max(top + kernel[0], 0), max(left, 0) : max(left + kernel[1], 0)]
        np.testing.assert_array_equal(got[0, oy, ox], window_.reshape(-1, 3).max(0, initial=0))
    assert got.shape == (1, height, width, 3)


def test_requantise_rule_as_written():
    blank = networks.blank_rule().exact
    rule = Requantise(
        blank, np.array([3, 70000], np.int32), np.array([5, -(2**33)]), np.array([4, 20], np.uint8),
        np.array([15, -1]), 1, np.zeros(2), np.zeros(2), low=4, high=250,
    )  # fmt: skip
    accumulators = np.random.default_rng(0).integers(-(2**18), 2**18, (400, 2))
    accumulators[:200, 0] = np.arange(-100, 100)
    got = reference.requantise(accumulators, rule)
    for row, result in zip(accumulators.tolist(), got.tolist(), strict=True):
        value = row[0] * 3 + 5
        level = value // 16 - (value // 16) % 2 if value % 16 == 0 else value // 16
        assert result[0] == min(max(level + 1, 4), 250)
        assert result[1] == min(max((row[1] * 70000 - 2**33) // 2**20 + 1, 4), 250)


def test_add_rule_as_written():
    every = np.arange(256, dtype=np.uint8)
    y, r = (grid.reshape(-1).astype(np.uint8) for grid in np.meshgrid(every, every))
    rule = AddRule(ExactSum(1, 1, 0, 1, 0), 50, 7, -321, 6, 63, 1, 0.0, 0.0, 0.0, low=10, high=200)
    expected = []
    for a, b in zip(y.tolist(), r.tolist(), strict=True):
        value = a * 50 + b * 7 - 321
        level = value // 64 - (value // 64) % 2 if value % 64 == 0 else value // 64
        expected.append(min(max(level + 1, 10), 200))
    np.testing.assert_array_equal(reference.add(y, r, rule), expected)


def test_global_average_pool():
    x = np.random.default_rng(0).integers(0, 256, (2, 7, 5, 9)).astype(np.uint8)
    builder = networks.Builder(np.random.default_rng(0))
    builder.tensors["x"], builder.values["x"] = Tensor("x", 7, 5, 9, 0.02, 11), x
    name = builder.global_average_pool("x")
    factor = Fraction(float(np.float32(1.3 / 35)))
    assert isinstance(builder.steps[-1], GlobalAveragePool)
    for total, got in zip(x.sum((1, 2)).ravel().tolist(), builder.values[name].ravel().tolist(), strict=True):
        assert got == min(max(round((total - 35 * 11) * factor) + 3, 0), 255)


@pytest.mark.parametrize("seed", range(3))
def test_whole_networks_run(seed):
    rng = np.random.default_rng(seed)
    network = networks.random_network(rng)
    executable = reference.ReferenceExecutable(network)
    outputs = executable.run(networks.random_images(network, 3, rng))
    tensor = network.tensors[network.outputs[0]]
    assert outputs[network.outputs[0]].shape == (3, tensor.channels, 1, 1)
    executable.close()
