"""Search and proof of the constants of a rule: fixed point for integer devices, float64 for CPUs.

Every rule is a monotone step function. Fixed-point constants are right if they put the result on the right side at each
threshold and just below it; for a given multiplier that leaves an interval of offsets in closed form, so only the
multiplier is searched, near the exact scale, with as few bits as will do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fpga_ops.errors import ModelError, NoConstantsError
from fpga_ops.ir.exact import NEAR, Sums, Thresholds, ratio, sums, thresholds
from fpga_ops.ir.network import ExactAffine, ExactSum, Float64Array, Int64Array

WIDTHS = (27, 28, 29, 30, 31)
"""Bits of a multiplier, tried in this order; 27 is what a multiplier of a DSP block takes."""
SEARCHED = 16
"""How far from the exact scale a multiplier is searched."""
SUMS_SEARCHED = 3
TIE_FRACTIONS = (0, 24, 20, 16, 12, 8)
"""Bits of the fraction that are zero at a tie: 0 for all of them, else these, where no multiplier is exact."""
LIMIT = 61
"""No product with its offset needs more bits."""
REAL_LIMIT = 2.0**30
"""Steps that a result in float64 may be away from zero, so that it converts to int32."""
COARSE = 1.5 * 2.0**22
"""Adding this to a float64 below 2^20 and subtracting it rounds to multiples of 2^-30."""
NO_TIE = -1

_FAR = np.int64(2**62)


@dataclass
class Constants:
    """Arrays for the attributes of `Requantise`, of the same names."""

    multiplier: Int64Array
    offset: Int64Array
    shift: Int64Array
    mask: Int64Array
    increment: int
    slope: Float64Array
    intercept: Float64Array
    coarse: float = 0.0


def affine_constants(exact: ExactAffine, low: int, high: int) -> Constants:
    """Constants equal to the exact rule at every accumulator possible.

    Raises:
        ModelError: There are none, or a result leaves the range of the wider arithmetic.
    """
    rows, where = _distinct(exact)
    if len(rows) < len(exact.factor):  # as in a mean, where all channels are alike
        found = affine_constants(_chosen(exact, rows), low, high)
        arrays = {name: values[where] for name, values in vars(found).items() if isinstance(values, np.ndarray)}
        return Constants(**(vars(found) | arrays))
    steps = thresholds(exact, low, high)
    live = (steps.values > exact.least[:, None]) & (steps.values <= exact.most[:, None])
    active = np.flatnonzero(live.any(1))
    increment = exact.zero_point % 2 if steps.ties.any() else 0
    constant = low - increment + (steps.values <= exact.least[:, None]).sum(1)
    result = Constants(
        np.zeros(len(rows), np.int64), constant.astype(np.int64), np.zeros(len(rows), np.int64),
        np.full(len(rows), NO_TIE, np.int64), increment, np.zeros(len(rows)), constant.astype(np.float64),
    )  # fmt: skip
    if not active.size:
        return result
    scale = np.array([ratio(exact.factor[c], exact.divisor) for c in active.tolist()])
    shift = exact.zero_point - increment
    start = np.array([ratio(exact.offset[c] + shift * exact.divisor, exact.divisor) for c in active.tolist()])
    reach = np.maximum(np.abs(exact.least[active]), np.abs(exact.most[active])) * scale + np.abs(start) + 256
    if not (reach < REAL_LIMIT).all():
        worst = int(np.argmax(~(reach < REAL_LIMIT)))
        raise ModelError(
            f"output channel {active[worst]}: its results reach {reach[worst]:.3g} quantisation steps and could "
            f"overflow; the limit is {REAL_LIMIT:.3g} (a scale of {scale[worst]:.3g} steps per accumulator step)"
        )
    result.slope[active], result.intercept[active] = scale, start
    _prove_float64(exact, steps, active, result)
    _fit_fixed(exact, steps, active, scale, reach, result)
    return result


def _distinct(exact: ExactAffine) -> tuple[list[int], npt.NDArray[np.intp]]:
    """The first channel of each rule, and where each channel's is among them."""
    numbers: dict[tuple[int, int, int, int], int] = {}
    rows: list[int] = []
    where = np.empty(len(exact.factor), np.intp)
    keys = zip(exact.factor, exact.offset, exact.least.tolist(), exact.most.tolist(), strict=True)
    for channel, key in enumerate(keys):
        where[channel] = numbers.setdefault(key, len(numbers))
        if len(numbers) > len(rows):
            rows.append(channel)
    return rows, where


def _chosen(exact: ExactAffine, rows: list[int]) -> ExactAffine:
    return ExactAffine(
        tuple(exact.factor[row] for row in rows), tuple(exact.offset[row] for row in rows), exact.divisor,
        exact.zero_point, exact.least[rows], exact.most[rows],
    )  # fmt: skip


# ---- float64


def _prove_float64(exact: ExactAffine, steps: Thresholds, active: npt.NDArray[np.intp], result: Constants) -> None:
    """Check what is so near to a tie that rounding could decide; other thresholds are further away than any error.

    `fma` rounds once, and slope and intercept were rounded once each: together below `2^-50` of the largest magnitude
    involved, and `near` holds all thresholds within `2^-47` of it. Ties of scales that are no powers of two (a mean
    over 36 pixels) are missed by that little; then all results of the layer are rounded to `2^-30` of a step first.
    """
    for result.coarse in (0.0, COARSE):
        failed = [channel for channel in active.tolist() if not _prove_channel(exact, steps, channel, result)]
        if not failed:
            return
    channel = failed[0]
    raise ModelError(
        f"output channel {channel}: no float64 constants round all its thresholds exactly (a scale of "
        f"{result.slope[channel]:.6g} steps per accumulator step, {int(steps.ties[channel].sum())} ties)"
    )


def _prove_channel(exact: ExactAffine, steps: Thresholds, channel: int, result: Constants) -> bool:
    chosen = steps.near[channel] | bool(result.coarse)
    if not chosen.any() or (not result.coarse and _float64_is_exact(exact, channel, result.increment)):
        return True
    levels = (steps.levels - result.increment)[chosen].tolist()
    checks = list(zip(steps.values[channel, chosen].tolist(), levels, strict=True))
    bounds = int(exact.least[channel]), int(exact.most[channel])
    slope, intercept = float(result.slope[channel]), float(result.intercept[channel])
    for one, other in ((0, 0),) if result.coarse else _around(4):
        m, b = _moved(slope, one), _moved(intercept, other)
        if _float64_holds(m, b, result.coarse, checks, *bounds):
            result.slope[channel], result.intercept[channel] = m, b
            return True
    live = (steps.values[channel] > bounds[0]) & (steps.values[channel] <= bounds[1])
    if live.sum() != 1:
        return False
    # a scale too small for float64 to see next to the bias, and one threshold: any slope does that meets no other
    value, level = int(steps.values[channel, live][0]), int((steps.levels - result.increment)[live][0])
    slope = math.ldexp(1.0, -2 - (bounds[1] - bounds[0]).bit_length())
    intercept = level - 0.5 - (value - 0.5) * slope
    result.slope[channel], result.intercept[channel] = slope, intercept
    return _float64_holds(slope, intercept, result.coarse, checks, *bounds)


def _float64_is_exact(exact: ExactAffine, channel: int, increment: int) -> bool:
    """Whether all arithmetic is without any rounding: dyadic numbers that 53 bits hold."""
    factor, divisor = exact.factor[channel], exact.divisor
    offset = exact.offset[channel] + (exact.zero_point - increment) * divisor
    common = math.gcd(factor, offset, divisor)
    factor, offset, divisor = factor // common, offset // common, divisor // common
    largest = max(abs(int(exact.least[channel])), abs(int(exact.most[channel])), 1) * factor + abs(offset)
    return divisor & (divisor - 1) == 0 and largest < 1 << 53


def _float64_holds(
    slope: float, intercept: float, coarse: float, checks: list[tuple[int, int]], least: int, most: int
) -> bool:
    def result(accumulator: int) -> int:
        return round((_fma(accumulator, slope, intercept) + coarse) - coarse)

    return all(
        (value > most or result(value) >= level) and (value <= least or result(value - 1) < level)
        for value, level in checks
    )


def _around(reach: int) -> Iterator[tuple[int, int]]:
    """Pairs of integers, nearest to zero first."""
    grid = [(one, other) for one in range(-reach, reach + 1) for other in range(-reach, reach + 1)]
    return iter(sorted(grid, key=lambda pair: abs(pair[0]) + abs(pair[1])))


def _moved(value: float, count: int) -> float:
    for _ in range(abs(count)):
        value = math.nextafter(value, math.inf if count > 0 else -math.inf)
    return value


# ---- fixed point


def _fit_fixed(
    exact: ExactAffine,
    steps: Thresholds,
    active: npt.NDArray[np.intp],
    scale: Float64Array,
    reach: Float64Array,
    result: Constants,
) -> None:
    """Multiplier, offset, shift and mask of the active channels, of as few bits as will do."""
    exponent = np.frexp(scale)[1].astype(np.int64)  # scale < 2^exponent
    room = LIMIT - np.frexp(reach)[1].astype(np.int64)
    left = np.arange(len(active))
    for width in WIDTHS:
        shift = np.clip(np.minimum(width - exponent, room), 0, LIMIT)
        nearest = np.minimum(np.rint(np.ldexp(scale, shift)), 2.0**width - 1).astype(np.int64)
        for distance in sorted(range(-SEARCHED, SEARCHED + 1), key=abs):
            multiplier = np.clip(nearest + distance, 1, 2**width - 1)
            for fraction in (NO_TIE, *TIE_FRACTIONS):
                tried = left if fraction == NO_TIE else left[steps.ties[active[left]].any(1) & (shift[left] > fraction)]
                if tried.size:
                    rows = active[tried]
                    ignored = shift[tried] - fraction if fraction > 0 else np.zeros_like(tried)
                    found, offset = _offsets(
                        exact,
                        steps,
                        rows,
                        multiplier[tried],
                        shift[tried],
                        result.increment,
                        ignored,
                        fraction != NO_TIE,
                    )
                    rows, tried = rows[found], tried[found]
                    result.multiplier[rows], result.shift[rows] = multiplier[tried], shift[tried]
                    result.offset[rows] = offset[found]
                    if fraction != NO_TIE:
                        ones = np.left_shift(np.int64(1), np.stack([shift[tried], ignored[found]]))
                        result.mask[rows] = ones[0] - ones[1]
                    left = np.setdiff1d(left, tried, assume_unique=True)
            if not left.size:
                return
    channel = int(active[left[0]])
    raise NoConstantsError(
        f"output channel {channel}: no fixed-point constants of up to {WIDTHS[-1]} bits round all its thresholds "
        f"exactly (a scale of {scale[left[0]]:.6g} steps per accumulator step, {int(steps.ties[channel].sum())} ties); "
        f"{len(left)} channels are like that. Weight scales a few units in the last place away have some: "
        "fpga_ops.importer.settle_scales moves them",
        tuple(active[left].tolist()),
    )


def _offsets(
    exact: ExactAffine,
    steps: Thresholds,
    rows: npt.NDArray[np.intp],
    multiplier: Int64Array,
    shift: Int64Array,
    increment: int,
    ignored: Int64Array,
    masked: bool,
) -> tuple[npt.NDArray[np.bool_], Int64Array]:
    """Which channels have an offset that makes a multiplier right, and the middle of its interval.

    With T the threshold of level k, `(a * multiplier + offset) >> shift` must reach k at T and not at T - 1. Where ties
    are told by a mask that ignores the lowest bits, results at a tie must leave a rest below `2^ignored`, others not.
    """
    values, levels = steps.values[rows], steps.levels - increment
    least, most = exact.least[rows, None], exact.most[rows, None]
    need = (levels << shift[:, None]) - values * multiplier[:, None]
    lower = np.where(values <= most, need, -_FAR)
    upper = np.where(values > least, need + multiplier[:, None], _FAR)
    if masked:
        ties, rest = steps.ties[rows], np.left_shift(np.int64(1), ignored)[:, None]
        at_tie = need + (levels & 1) * multiplier[:, None]  # where even is below, the tie is one before the threshold
        lower = np.where(ties, at_tie, np.where(values <= most, lower + rest, lower))
        upper = np.where(ties, at_tie + rest, upper)
    start, stop = lower.max(1), upper.min(1)
    found = start < stop
    if masked:
        found &= multiplier >= rest[:, 0]
    return found, start + (stop - start) // 2


# ---- additions


@dataclass(frozen=True)
class SumConstants:
    """Values for the attributes of `AddRule`, of the same names."""

    multiplier: int
    residual_multiplier: int
    offset: int
    shift: int
    mask: int
    increment: int
    slope: float
    residual_slope: float
    intercept: float
    coarse: float


def sum_constants(exact: ExactSum, low: int, high: int) -> SumConstants:
    """Constants equal to the exact rule for every pair of bytes.

    Raises:
        ModelError: There are none.
    """
    table = sums(exact, low, high)
    increment = exact.zero_point % 2 if (table.halfway >= 0).any() else 0
    shift = exact.zero_point - increment
    slopes = (
        ratio(exact.first, exact.divisor),
        ratio(exact.second, exact.divisor),
        ratio(exact.offset + shift * exact.divisor, exact.divisor),
    )
    reach = 256.0 * (slopes[0] + slopes[1]) + abs(slopes[2]) + 256
    if not reach < REAL_LIMIT:
        raise ModelError(
            f"addition: scales of {slopes[0]:.4g} and {slopes[1]:.4g} steps of the output are too large: "
            f"{reach:.3g} steps are beyond {REAL_LIMIT:.3g}"
        )
    coarse, slopes = _sum_float64(exact, table, slopes, reach, increment)
    exponent = math.frexp(max(slopes[0], slopes[1]))[1]
    room = LIMIT - math.frexp(reach)[1]
    limits = low - increment, high - increment
    core, halfway = table.result - increment, np.where(table.halfway < 0, -1, table.halfway - increment)
    for width in WIDTHS:
        bits = max(0, min(width - exponent, room))
        for fraction in (NO_TIE, *TIE_FRACTIONS) if (table.halfway >= 0).any() else (NO_TIE,):
            if fraction != NO_TIE and bits <= fraction:
                continue
            ignored = bits - fraction if fraction > 0 else 0
            masked = fraction != NO_TIE
            found = _sum_search(core, halfway if masked else None, slopes, bits, width, ignored, limits)
            if found is not None:
                mask = (1 << bits) - (1 << ignored) if masked else NO_TIE
                return SumConstants(*found, bits, mask, increment, *slopes, coarse)
    raise ModelError(
        f"addition: no fixed-point constants of up to {WIDTHS[-1]} bits round all sums exactly (scales of "
        f"{slopes[0]:.6g} and {slopes[1]:.6g} steps of the output, {int((table.halfway >= 0).sum())} ties)"
    )


def _sum_search(
    core: Int64Array, halfway: Int64Array | None, slopes: tuple[float, float, float], bits: int, width: int,
    ignored: int, limits: tuple[int, int],
) -> tuple[int, int, int] | None:  # fmt: skip
    """Multipliers and an offset for a shift, as `_offsets` of a requantisation; with `halfway` ties by a mask."""
    every = np.arange(256, dtype=np.int64)
    base = core << bits
    floor = np.where(core > limits[0], base, -_FAR)
    ceiling = np.where(core < limits[1], base + (1 << bits), _FAR)
    if halfway is not None:  # at a tie the sum is the start of the upper level, up to what is ignored
        tie = halfway >= 0
        floor = np.where(tie, halfway << bits, np.where(core > limits[0], base + (1 << ignored), -_FAR))
        ceiling = np.where(tie, (halfway << bits) + (1 << ignored), ceiling)
    nearest = [min(round(math.ldexp(slope, bits)), 2**width - 1) for slope in slopes[:2]]
    alone = [(distance, 0) for distance in sorted(range(-SEARCHED, SEARCHED + 1), key=abs)]
    for one, two in _around(SUMS_SEARCHED) if slopes[1] else alone:
        first, second = nearest[0] + one, nearest[1] + two
        if 0 <= first < 2**width and 0 <= second < 2**width:
            product = every[:, None] * first + every[None, : core.shape[1]] * second
            start, stop = int((floor - product).max()), int((ceiling - product).min())
            if start < stop:
                return first, second, start + (stop - start) // 2
    return None


def _sum_float64(
    exact: ExactSum, table: Sums, slopes: tuple[float, float, float], reach: float, increment: int
) -> tuple[float, tuple[float, float, float]]:
    """Coarseness, slopes and intercept that are right for all sums so near to a tie that their roundings decide."""
    offset = exact.offset + (exact.zero_point - increment) * exact.divisor
    common = math.gcd(exact.first, exact.second, offset, exact.divisor)
    divisor, largest = exact.divisor // common, (256 * (exact.first + exact.second) + abs(offset)) // common
    if divisor & (divisor - 1) == 0 and largest < 1 << 53:
        return 0.0, slopes  # nothing is rounded before the last step
    for coarse in (0.0, COARSE):
        near = np.argwhere(table.distance <= NEAR * reach + (2.0**-29 if coarse else 0.0))
        checks = [(int(y), int(r), int(table.result[y, r]) - increment) for y, r in near]
        moves = [(0, 0, 0)] if coarse else [
            (one, two, three) for one, two in _around(2) for three in (0, 1, -1, 2, -2)
        ]  # fmt: skip
        for one, two, three in moves:
            a, b = _moved(slopes[0], one), _moved(slopes[1], two) if slopes[1] else 0.0
            c = _moved(slopes[2], three)
            if all(round((_fma(y, a, _fma(r, b, c)) + coarse) - coarse) == result for y, r, result in checks):
                return coarse, (a, b, c)
    raise ModelError(
        f"addition: no float64 constants round {len(checks)} of its sums exactly (scales of {slopes[0]:.6g} and "
        f"{slopes[1]:.6g} steps of the output)"
    )


def _fma(factor: int, slope: float, intercept: float) -> float:
    top, under = slope.as_integer_ratio()
    start, start_under = intercept.as_integer_ratio()
    return (factor * top * start_under + start * under) / (under * start_under)  # dividing integers rounds once
