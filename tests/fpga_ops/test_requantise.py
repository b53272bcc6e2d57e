"""The constants of every rule against its definition in exact rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from fpga_ops.errors import ModelError
from fpga_ops.importer.steps import rescale_rule
from fpga_ops.ir import exact, reference
from fpga_ops.ir.network import Tensor
from fpga_ops.ir.requantise import accumulator_range, add_rule, dequantise, quantise, requantise, swapped
from tests.support.networks import rule_of

exactly = settings(derandomize=True, deadline=None, max_examples=30, phases=[Phase.explicit, Phase.generate])
float32 = st.floats(2.0**-20, 4.0, width=32)
powers = st.integers(-20, 2).map(lambda exponent: 2.0**exponent)
bytes_ = st.integers(0, 255)


def rounded(value: Fraction, zero_point: int, low: int, high: int) -> int:
    """ONNX QuantizeLinear, of an exact number of steps."""
    return min(max(round(value) + zero_point, low), high)


def fused(*numbers: float) -> float:
    """`a * b + c` rounded once to float64."""
    a, b, c = (Fraction(number) for number in numbers)
    return float(a * b + c)


def real_form(rule, accumulator: int, channel: int = 0) -> int:
    """The float64 form as written in `Requantise`."""
    value = fused(accumulator, float(rule.slope[channel]), float(rule.intercept[channel]))
    return min(max(round((value + rule.coarse) - rule.coarse) + rule.increment, rule.low), rule.high)


def integer_form(rule, accumulators) -> list[int]:
    return reference.requantise(np.asarray(accumulators, np.int64)[:, None], rule)[:, 0].tolist()


def check(rule, scale: Fraction, bias: Fraction, zero_point: int, correction: int, accumulators) -> None:
    accumulators = [int(a) for a in accumulators if rule.exact.least[0] <= a <= rule.exact.most[0]]
    expected = [rounded((a - correction) * scale + bias, zero_point, rule.low, rule.high) for a in accumulators]
    assert integer_form(rule, accumulators) == expected
    assert [real_form(rule, a) for a in accumulators] == expected


def around_thresholds(rule, rng: np.random.Generator) -> np.ndarray:
    """Accumulators on both sides of every threshold, the ends, and some between."""
    steps = exact.thresholds(rule.exact, rule.low, rule.high).values[0]
    least, most = int(rule.exact.least[0]), int(rule.exact.most[0])
    return np.concatenate([steps - 2, steps - 1, steps, steps + 1, [least, most], rng.integers(least, most + 1, 50)])


@exactly
@given(st.one_of(float32, powers), st.one_of(float32, powers), st.floats(-300, 300, width=32), bytes_,
       st.integers(-(2**20), 2**20), bytes_, st.integers(0, 2**32 - 1))  # fmt: skip
def test_both_forms_are_exact_at_every_threshold(scale, step, bias, zero_point, correction, low, seed):
    low = min(low, 200)
    assume(2**24 * scale / step + abs(bias) / step < 2**29)
    rule = requantise(
        exact.affine(
            exact.Dyadics.of([scale]), exact.Dyadics.of([bias]), 1, (step, zero_point), correction, -(2**24), 2**24
        ),
        low,
    )
    factors = Fraction(scale) / Fraction(step), Fraction(bias) / Fraction(step)
    check(rule, *factors, zero_point, correction, around_thresholds(rule, np.random.default_rng(seed)))


TIES = {
    "every step": (1.0, 0.5, 1, 1.0), "every fourth": (0.25, 0.0, 1, 1.0), "small steps": (2.0**-12, 0.5, 1, 2.0),
    "a mean over 36": (1.0, 0.0, 36, 1.0), "a mean over 100": (0.5, 0.25, 100, 0.5), "thirds": (2.0, 1.5, 1, 3.0),
    "a mean over 196": (1.0, 0.0, 196, 1.0), "fifths": (1.0, 0.5, 5, 1.0), "sevenths of a power": (0.125, 0.5, 1, 7.0),
}  # fmt: skip


@pytest.mark.parametrize("zero_point", [0, 3, 128, 255])
@pytest.mark.parametrize("name", TIES)
def test_ties_go_to_even(name, zero_point):
    """Half-way between two bytes ONNX takes the one at an even distance from the zero point."""
    scale, bias, divisor, step = TIES[name]
    reach = math.ceil(300 * divisor * step / scale)
    rule = requantise(
        exact.affine(exact.Dyadics.of([scale]), exact.Dyadics.of([bias]), divisor, (step, zero_point), 0, -reach, reach)
    )
    factor, offset = Fraction(scale) / divisor / Fraction(step), Fraction(bias) / Fraction(step)
    some = range(-reach, reach + 1, max(1, reach // 500))
    check(rule, factor, offset, zero_point, 0, [*some, *around_thresholds(rule, np.random.default_rng(0))])
    assert exact.thresholds(rule.exact, 0, 255).ties.any()


def test_a_definition_by_hand():
    """`round(5 * 0.3 / 0.2) + 7`, in float32's own numbers; 2.5 goes to 2, 3.5 to 4."""
    rule = rule_of([0.5], [0.0], 7, 0, 0, 255, -100, 100)
    assert integer_form(rule, [5, 7, -5, -7, 6, -100, 100]) == [7 + 2, 7 + 4, 7 - 2, 7 - 4, 10, 0, 57]
    assert exact.affine_value(rule.exact, 0, 5, 0, 255) == 9


def test_channels_that_vanish_keep_their_weights():
    """Scales so small that a channel has one threshold or none are as exact as any, whatever their bias."""
    scale = [1e-12, 2.0**-31, 2.0**-26, 1e-30, 1e-9]
    bias = [0.5, 3.4999999, -7.5, 200.5, 12.25]
    rule = rule_of(scale, bias, 10, 0, 0, 255, -(2**27), 2**27)
    for channel in range(5):
        for a in (-(2**27), -1, 0, 1, 2**27, 2**26 + 3):
            value = a * Fraction(scale[channel]) + Fraction(bias[channel])
            got = reference.requantise(np.full((1, 5), a, np.int64), rule)[0, channel]
            assert got == rounded(value, 10, 0, 255)
            assert real_form(rule, a, channel) == got
    constant = rule_of([0.1], [5.0], 0, 0, 0, 255, 0, 0)  # a channel of zero weights
    assert (constant.multiplier[0], integer_form(constant, [0])) == (0, [5])


def test_multipliers_are_as_narrow_as_they_can_be():
    rng = np.random.default_rng(0)
    rule = rule_of(rng.uniform(0.0005, 0.01, 400), rng.normal(0, 50, 400), 3, 0, 0, 255, -(2**20), 2**20)
    bits = [int(m).bit_length() for m in rule.multiplier]
    assert max(bits) <= 31
    assert np.mean([count <= 27 for count in bits]) > 0.95


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_requantise_refuses_bad_scales(scale):
    with pytest.raises(ModelError, match="channel 1: a scale must be positive"):
        rule_of([0.1, scale], [0.0, 0.0], 0)


def test_requantise_refuses_what_could_overflow():
    with pytest.raises(ModelError, match="32-bit accumulator could overflow"):
        rule_of([0.001], [0.0], 0, least=0, most=2**31)
    with pytest.raises(ModelError, match="channel 1: its results reach"):
        rule_of([1.0, 5000.0], [0.0, 0.0], 0, least=-(2**20), most=2**20)
    rule_of([0.001], [0.0], 0, least=-(2**31), most=2**31 - 1)


EVERY = tuple(grid.astype(np.uint8) for grid in np.meshgrid(np.arange(256), np.arange(256), indexing="ij"))


def check_sum(rule, first, second, output):
    """All 65,536 pairs in integers; the float64 form at every pair near a tie and at some others."""
    (s1, z1), (so, zo) = first, output
    s2, z2 = second or (0.0, 0)
    ratios = Fraction(s1) / Fraction(so), Fraction(s2) / Fraction(so)
    whole = math.lcm(ratios[0].denominator, ratios[1].denominator) * 2
    parts = [int(ratio * whole) for ratio in ratios]
    value = (EVERY[0].astype(object) - z1) * parts[0] + (EVERY[1].astype(object) - z2) * parts[1]
    floor, rest = (2 * value + whole) // (2 * whole), (2 * value + whole) % (2 * whole)
    steps = floor - ((rest == 0) & (floor % 2 == 1))
    expected = np.clip((steps + zo).astype(np.float64), rule.low, rule.high).astype(np.uint8)
    np.testing.assert_array_equal(reference.add(*EVERY, rule), expected)
    near = np.argwhere(np.minimum(rest, 2 * whole - rest).astype(float) < 2e-4 * whole)[:300]
    for y, r in [*near.tolist(), *np.random.default_rng(0).integers(0, 256, (100, 2)).tolist()]:
        got = fused(y, rule.slope, fused(r, rule.residual_slope, rule.intercept))
        got = min(max(round((got + rule.coarse) - rule.coarse) + rule.increment, rule.low), rule.high)
        assert got == expected[y, r]


operand = st.tuples(st.one_of(st.floats(2.0**-7, 1.0, width=32), powers.filter(lambda p: p > 2**-8)), bytes_)


@settings(exactly, max_examples=12)
@given(operand, operand, operand, bytes_)
def test_additions_are_exact_for_all_pairs(first, second, output, low):
    rule = add_rule(first, second, output, min(low, 200), 255)
    check_sum(rule, first, second, output)
    check_sum(swapped(rule), second, first, output)


@pytest.mark.parametrize(
    "scales", [(1.0, 1.0, 1.0), (1.0, 0.5, 2.0), (5.0, 5.0, 6.0), (1.0, 2.0, 3.0), (3.0, 5.0, 7.0)]
)
@pytest.mark.parametrize("zero_points", [(0, 0, 0), (128, 3, 7), (1, 2, 255)])
def test_additions_with_ties(scales, zero_points):
    first, second, output = zip(scales, zero_points, strict=True)
    check_sum(add_rule(first, second, output), first, second, output)


@exactly
@given(operand, operand)
def test_changes_of_scale_are_exact(source, output):
    tensors = [Tensor("x", 1, 1, 1, *source), Tensor("y", 1, 1, 1, *output)]
    check_sum(rescale_rule(*tensors, 0, 255), source, None, output)


@pytest.mark.parametrize("zero_point", [0, 7, 128, 255])
def test_change_of_nothing_changes_nothing(zero_point):
    tensor = Tensor("x", 1, 1, 256, 0.37, zero_point)
    every = np.arange(256, dtype=np.uint8)
    rule = rescale_rule(tensor, tensor, 0, 255)
    np.testing.assert_array_equal(reference.add(every, every, rule), every)


def test_additions_refuse_scales_without_constants():
    with pytest.raises(ModelError, match="positive and finite"):
        add_rule((math.nan, 0), (1.0, 0), (1.0, 0))
    with pytest.raises(ModelError, match="too large"):
        add_rule((2.0**30, 0), (1.0, 0), (1.0, 0))


@exactly
@given(st.floats(2.0**-100, 2.0**100, width=32), bytes_, st.integers(0, 2**32 - 1))
def test_inputs_are_quantised_exactly(scale, zero_point, seed):
    """Random values, and float32 neighbours of every tie, where a division in float32 goes wrong."""
    rng = np.random.default_rng(seed)
    ties = (np.arange(-20, 20) + 0.5) * scale
    values = np.concatenate([rng.uniform(-300, 300, 40) * scale, ties]).astype(np.float32)
    values = np.concatenate([values, np.nextafter(values, np.float32(np.inf)), np.nextafter(values, np.float32(0))])
    expected = [rounded(Fraction(float(value)) / Fraction(scale), zero_point, 0, 255) for value in values]
    assert quantise(values, scale, zero_point).tolist() == expected


def test_quantise_saturates_and_comes_back():
    values = np.array([-3e38, -1, 0, 1, 3e38], np.float32)
    np.testing.assert_array_equal(quantise(values, 0.001, 10), [0, 0, 10, 255, 255])
    back = dequantise(quantise(np.array([0.31, -0.2], np.float32), 0.1, 128), 0.1, 128)
    np.testing.assert_array_equal(back, np.array([3, -2], np.float32) * np.float32(0.1))


def test_accumulator_range():
    weights = np.array([[-3, 4, 0], [1, 2, 3], [-128, -128, -128], [0, 0, 0]], np.int8).reshape(4, 1, 1, 3)
    least, most = accumulator_range(weights)
    assert least.tolist() == [-765, 0, -3 * 128 * 255, 0]
    assert most.tolist() == [1020, 1530, 0, 0]
