"""The fixed-point rules against exact rational arithmetic, with the bounds of docs/explanation/integer-network.md."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from fpga_ops.errors import ModelError
from fpga_ops.importer.steps import fit_channels, rescale_rule
from fpga_ops.ir import reference
from fpga_ops.ir.network import Tensor
from fpga_ops.ir.requantise import (
    accumulator_bound,
    add_rule,
    dequantise,
    quantise,
    requantise,
    zero_point_correction,
)

exactly = settings(derandomize=True, deadline=None, max_examples=80, phases=[Phase.explicit, Phase.generate])
scales = st.floats(2.0**-21, 2.0**-5, exclude_max=True)
large_scales = st.floats(2.0**-5, 4.0)
bytes_ = st.integers(0, 255)


def constants(scale, bias, zero_point, correction=0, low=0, high=255, bound=2**24):
    return requantise(
        np.array([scale]), np.array([bias]), zero_point, np.array([correction]), low, high, np.array([bound])
    )


def apply(rule, accumulator):
    return int(reference.requantise(np.array([[accumulator]], np.int64), rule)[0, 0])


@exactly
@given(scales, st.floats(-300, 300), bytes_, st.integers(-(2**20), 2**20), st.floats(-1.2, 1.2))
def test_requantise_is_exact_up_to_its_bound(scale, bias, zero_point, correction, place):
    rule = constants(scale, bias, zero_point, correction)
    inner = math.floor(place * min(512 / scale, 2**23))  # the accumulator over zero-based activations
    real = Fraction(inner) * Fraction(scale) + Fraction(bias) + zero_point
    result = apply(rule, inner + correction)
    clipped = min(max(real, Fraction(0)), Fraction(255))
    relative = abs(Fraction(inner) * Fraction(scale)) / 2**15
    assert abs(result - clipped) <= Fraction(1, 2) + Fraction(2, 64) + Fraction(scale) / 2 + relative


@exactly
@given(large_scales, st.floats(-300, 300), bytes_, st.integers(-300, 300))
def test_requantise_of_large_scales(scale, bias, zero_point, inner):
    rule = constants(scale, bias, zero_point, bound=2**14)
    real = Fraction(inner) * Fraction(scale) + Fraction(bias) + zero_point
    clipped = min(max(real, Fraction(0)), Fraction(255))
    # The bias is a whole number of accumulator steps, so half a step of it is lost.
    bound = Fraction(1, 2) + Fraction(2, 64) + Fraction(scale) / 2 + abs(Fraction(inner) * Fraction(scale)) / 2**15
    assert rule.pre_shift > 0
    assert abs(apply(rule, inner) - clipped) <= bound


@exactly
@given(scales, st.floats(-300, 300), bytes_, st.integers(-(2**20), 2**20))
def test_background_is_rounded_exactly(scale, bias, zero_point, correction):
    rule = constants(scale, bias, zero_point, correction)
    ideal = np.clip(np.rint(bias + zero_point), 0, 255)
    distance = abs((bias + zero_point) % 1 - 0.5)
    if distance > scale:  # a tie is one accumulator step wide
        assert apply(rule, correction) == ideal


@exactly
@given(scales, st.floats(-300, 300), bytes_, bytes_, bytes_)
def test_bounds_hold_and_order_is_kept(scale, bias, zero_point, one, other):
    low, high = sorted((one, other))
    rule = constants(scale, bias, zero_point, low=low, high=high)
    accumulators = np.linspace(-(2**24), 2**24, 999).astype(np.int64)[:, None]
    result = reference.requantise(accumulators, rule)[:, 0].astype(int)
    assert result.min() >= low
    assert result.max() <= high
    assert (np.diff(result) >= 0).all()


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_requantise_refuses_bad_scales(scale):
    with pytest.raises(ModelError, match="positive and finite"):
        constants(scale, 0.0, 0)


def test_requantise_refuses_what_could_overflow():
    with pytest.raises(ModelError, match="overflow"):
        constants(0.001, 0.0, 0, bound=2**31)
    with pytest.raises(ModelError, match="bias must be finite"):
        constants(0.001, math.nan, 0)
    with pytest.raises(ModelError, match="too large"):
        constants(5000.0, 0.0, 0, bound=255)


@exactly
@given(
    st.tuples(st.floats(0.001, 1.0), bytes_),
    st.tuples(st.floats(0.001, 1.0), bytes_),
    st.tuples(st.floats(0.02, 1.0), bytes_),
    st.integers(0, 2**32 - 1),
)
def test_add_is_exact_up_to_its_bound(first, second, output, seed):
    ratios = [Fraction(operand[0]) / Fraction(output[0]) for operand in (first, second)]
    assume(sum(ratios) < 60)
    rule = add_rule(first, second, output)
    y, r = np.random.default_rng(seed).integers(0, 256, (2, 40)).astype(np.uint8)
    result = reference.add(y, r, rule)
    for a, b, got in zip(y.tolist(), r.tolist(), result.tolist(), strict=True):
        real = ratios[0] * (a - first[1]) + ratios[1] * (b - second[1]) + output[1]
        clipped = min(max(real, Fraction(0)), Fraction(255))
        assert abs(got - clipped) <= Fraction(1, 2) + Fraction(7, 2) / 2**rule.fraction_bits


@exactly
@given(st.floats(0.001, 60.0), st.floats(0.001, 60.0), bytes_, bytes_, bytes_)
def test_add_never_leaves_16_bits(one, other, zero_one, zero_other, zero_out):
    try:
        rule = add_rule((one, zero_one), (other, zero_other), (1.0, zero_out))
    except ModelError:
        assert one + other > 30
        return
    top = (255 * rule.multiplier >> 8) + (255 * rule.residual_multiplier >> 8)
    assert rule.multiplier < 2**16
    assert rule.residual_multiplier < 2**16
    assert rule.offset >= -(2**15)
    assert top + rule.offset < 2**15
    assert top < 2**15


def test_typical_additions_keep_six_bits():
    assert add_rule((0.02, 128), (0.025, 0), (0.03, 0)).fraction_bits == 6


@pytest.mark.parametrize("zero_point", [0, 7, 128, 255])
def test_change_of_nothing_changes_nothing(zero_point):
    tensor = Tensor("x", 1, 1, 256, 0.37, zero_point)
    every = np.arange(256, dtype=np.uint8)
    rule = rescale_rule(tensor, tensor, 0, 255)
    np.testing.assert_array_equal(reference.add(every, every, rule), every)


@exactly
@given(st.floats(2.0**-6, 20.0), bytes_, bytes_)
def test_change_of_scale_is_exact_up_to_its_bound(ratio, zero_in, zero_out):
    rule = rescale_rule(Tensor("x", 1, 1, 1, ratio, zero_in), Tensor("y", 1, 1, 1, 1.0, zero_out), 0, 255)
    every = np.arange(256, dtype=np.uint8)
    for byte, got in zip(every.tolist(), reference.add(every, every, rule).tolist(), strict=True):
        clipped = min(max(Fraction(ratio) * (byte - zero_in) + zero_out, Fraction(0)), Fraction(255))
        assert abs(got - clipped) <= Fraction(1, 2) + Fraction(2) / 2**rule.fraction_bits


@exactly
@given(st.floats(1e-6, 1e3), bytes_, st.integers(0, 2**32 - 1))
def test_quantise_is_within_half_a_step(scale, zero_point, seed):
    scale = float(np.float32(scale))
    low, high = -zero_point * scale, (255 - zero_point) * scale
    values = np.random.default_rng(seed).uniform(low, high, 64).astype(np.float32)
    back = dequantise(quantise(values, scale, zero_point), scale, zero_point)
    assert np.abs(back.astype(np.float64) - values).max() <= scale * (0.5 + 2.0**-15)


def test_quantise_saturates():
    values = np.array([-3e38, -1, 0, 1, 3e38], np.float32)
    np.testing.assert_array_equal(quantise(values, 0.001, 10), [0, 0, 10, 255, 255])


@exactly
@given(st.floats(-45, -4), st.floats(-200, 200), bytes_, bytes_, st.integers(1, 600), st.integers(0, 2**32 - 1))
def test_channels_with_tiny_scales_keep_their_meaning(exponent, bias, zero_out, zero_in, length, seed):
    rng = np.random.default_rng(seed)
    weights = rng.integers(-127, 128, (1, 1, 1, length)).astype(np.int8)
    scale = np.array([2.0**exponent])
    fitted = fit_channels(weights, scale, np.array([bias]), zero_out, zero_in)
    rule = requantise(
        fitted.scale, np.array([bias]), zero_out, fitted.correction, accumulator_bound=accumulator_bound(fitted.weights)
    )
    x = rng.integers(0, 256, (20, length))
    exact = ((x - zero_in) @ weights[0, 0, 0].astype(np.int64)) * scale[0] + bias + zero_out
    sums = (x @ fitted.weights[0, 0, 0].astype(np.int64))[:, None]
    got = reference.requantise(sums, rule)[:, 0]
    kept = np.array_equal(fitted.weights, weights)
    rounding = 0.0 if kept else 0.5 * min(fitted.scale[0], 2 * scale[0] * 256) * np.abs(x - zero_in).sum(1).max()
    assert rounding < 0.1
    bound = 0.5 + 2 / 64 + scale[0] / 2 + np.abs(exact - bias - zero_out).max() / 2**15 + rounding + 1e-9
    assert np.abs(got - np.clip(exact, 0, 255)).max() <= bound
    assert zero_point_correction(fitted.weights, zero_in) == fitted.correction
