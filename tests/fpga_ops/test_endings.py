"""Endings in integers and float32 give the bits of the exact rule, or are not used."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from fpga_ops.ir import exact, reference
from fpga_ops.ir.network import Conv
from fpga_ops.ir.requantise import add_rule
from fpga_ops.vector import endings
from tests.support import networks


def float32_sum(constants: tuple[float, float, float]) -> npt.NDArray[np.int64]:
    """Every sum as the kernel does it, each operation rounded once."""
    a, b, c = (np.float32(value) for value in constants)
    y, r = np.meshgrid(np.arange(256.0), np.arange(256.0), indexing="ij")
    inner = (r.astype(np.longdouble) * b + c).astype(np.float32)
    value = (y.astype(np.longdouble) * a + inner).astype(np.float32)
    return np.clip(np.rint(value), 0, 255).astype(np.int64)


@pytest.mark.parametrize(
    ("first", "second", "output"),
    [
        ((0.03, 128), (0.04, 0), (0.04, 0)),  # three quarters, but for what float32 holds of the scales: near-ties
        ((0.03, 128), (0.03, 128), (0.04, 0)),
        ((0.5, 128), (0.25, 3), (0.5, 0)),  # true ties
        ((0.034150086, 91), (0.025459766, 0), (0.028574042, 0)),
        ((0.0217, 131), (0.0349, 7), (0.0302, 77)),
    ],
)
def test_a_sum_in_float32_is_the_exact_one(
    first: tuple[float, int], second: tuple[float, int], output: tuple[float, int]
) -> None:
    first, second, output = ((float(np.float32(scale)), zero) for scale, zero in (first, second, output))
    rule = add_rule(first, second, output)
    constants = endings.float_sum(rule)
    assert constants is not None
    np.testing.assert_array_equal(float32_sum(constants), exact.sums(rule.exact, 0, 255).result)


@pytest.mark.parametrize(
    ("first", "second", "output", "high"),
    [
        (0.03, 0.04, 0.04, 200),  # a bound
        (0.0217, 0.0349, 0.0402, 255),  # near-ties of several kinds
        (3.0e4, 0.04, 1.0, 255),  # beyond what float32 rounds to integers
    ],
)
def test_a_sum_that_float32_cannot_do_is_left_to_float64(first: float, second: float, output: float, high: int) -> None:
    scales = [float(np.float32(scale)) for scale in (first, second, output)]
    rule = add_rule((scales[0], 131), (scales[1], 0), (scales[2], 0), high=high)
    assert endings.float_sum(rule) is None


def test_fixed_point_is_the_exact_rule_with_32_bits_left_aside_first() -> None:
    network = networks.resnet((1,), 16, (20, 18, 3), seed=2)
    rules = [step.requantise for step in network.steps if isinstance(step, Conv)]
    plain = [rule for rule in rules if (rule.increment, rule.low, rule.high) == (0, 0, 255)]
    assert len(plain) > 2
    for rule in plain:
        constants = endings.fixed_point(rule)
        assert constants is not None
        multiplier, shift, offset = (values.astype(np.int64) for values in constants)
        rng = np.random.default_rng(1)
        sums = rng.integers(rule.exact.least, rule.exact.most + 1, (500, len(multiplier)))
        results = np.clip((sums * multiplier + offset) >> 32 >> shift, 0, 255)
        np.testing.assert_array_equal(results, reference.requantise(sums, rule))


def test_rules_with_ties_or_bounds_are_left_to_float64() -> None:
    network = networks.resnet((1,), 16, (20, 18, 3), seed=2)
    rule = next(step.requantise for step in network.steps if isinstance(step, Conv))
    assert endings.fixed_point(replace(rule, high=99)) is None
    assert endings.fixed_point(replace(rule, mask=np.full_like(rule.mask, 7))) is None
    assert (
        endings.fixed_point(replace(rule, multiplier=np.full_like(rule.multiplier, 1 << 30), shift=rule.shift * 0))
        is None
    )
