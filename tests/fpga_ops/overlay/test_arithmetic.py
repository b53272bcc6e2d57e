"""kernels/fpga/arithmetic.h against the reference, on whatever OpenCL CPU driver is here."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from fpga_ops.errors import ModelError
from fpga_ops.ir import exact, reference
from fpga_ops.ir.exact import Dyadics
from fpga_ops.ir.network import Requantise
from fpga_ops.ir.requantise import add_rule, requantise
from fpga_ops.overlay.kernels import source_directory
from fpga_ops.overlay.lower import identity
from fpga_ops.overlay.plan import tie
from fpga_ops.runtime import opencl

KERNELS = """
__kernel void pairs(__global int2 *out) {
  const int w0 = (int)get_global_id(0) - 128, w1 = (int)get_global_id(1) - 128, n = get_global_size(0);
  int2 wrong = 0;
  for (int a = 0; a < 256; ++a) {
    const int2 p = multiply_pair((uchar)a, (char)w0, (char)w1);
    wrong.x += p.x != a * w0;
    wrong.y += p.y != a * w1;
  }
  out[get_global_id(1) * n + get_global_id(0)] = wrong;
}
__kernel void rq(__global const int *acc, __global uchar *out, uint m, long offset, int shift, int tie, int increment,
                 int low, int high) {
  out[get_global_id(0)] = requantise(acc[get_global_id(0)], m, offset, shift, tie, increment, low, high);
}
__kernel void adds(__global uchar *out, uint first, uint second, long offset, int shift, int tie, int increment,
                   int low, int high) {
  out[get_global_id(1) * 256 + get_global_id(0)] = add_rule((uchar)get_global_id(0), (uchar)get_global_id(1), first,
                                                            second, offset, shift, tie, increment, low, high);
}
__kernel void rows(__global ulong *out, uint m) {
  out[get_global_id(0)] = product_in_logic((uchar)get_global_id(0), m);
}
"""


@pytest.fixture(scope="module", params=[(32, 31), (27, 27)], ids=["emulator", "board"])
def program(request):
    cpus = [device for device in opencl.list_devices() if device.is_cpu and not device.is_emulator]
    if not cpus:
        pytest.fail("no OpenCL CPU driver: pip install 'triton-fpga[engine]'")
    cl = opencl.module()
    context = cl.Context([cpus[0].handle])
    source = (source_directory() / "arithmetic.h").read_text() + KERNELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cl.CompilerWarning)  # the driver tells how it vectorised
        built = cl.Program(context, source).build(
            options=[f"-DACC_BITS={request.param[0]}", f"-DMUL_BITS={request.param[1]}"], cache_dir=False
        )
    kernels = {kernel.function_name: kernel for kernel in built.all_kernels()}
    yield cl, cl.CommandQueue(context), kernels, request.param[0]
    del context  # Intel's driver ends a context with its last handle, whatever queues it has


def read(cl, queue, kernel, size, dtype, count, *args):
    out = cl.Buffer(queue.context, cl.mem_flags.READ_WRITE, count * np.dtype(dtype).itemsize)
    kernel(queue, size, None, *[out if arg is read else arg for arg in args])
    result = np.empty(count, dtype)
    cl.enqueue_copy(queue, result, out)
    return result


def test_two_products_in_one_multiplier_are_exact_for_every_operand(program):
    cl, queue, kernels, _ = program
    wrong = read(cl, queue, kernels["pairs"], (256, 256), np.int32, 2 * 65536, read)
    assert not wrong.any()  # 2^24 pairs


def test_packed_operand_and_product_fit_an_18x19_multiplier():
    weights = np.arange(-128, 128)
    packed = weights[:, None] * 1024 + weights
    assert packed.min() >= -(2**18)
    assert packed.max() < 2**18


def a_rule(scale: float, bias: float, zero_point: int, limit: int, low: int = 0, high: int = 255) -> Requantise:
    """One channel whose accumulator is within +-limit."""
    step = [np.float32(scale)]
    real = exact.affine(Dyadics.of(step), Dyadics.of([bias]), 1, (0.25, zero_point), [0], -limit, limit)
    return requantise(real, low, high)


RULES = {
    "typical": lambda: a_rule(0.25 * 0.0037, 1.3, 0, 2**20),
    "clipped": lambda: a_rule(0.25 * 0.00011, -7.7, 128, 2**25, 3, 250),
    "largest accumulator": lambda: a_rule(0.25 * 3.3e-6, 0.4, 17, 2**26 - 1),
    "a scale above one": lambda: a_rule(0.25 * 1.7, 0.1, 90, 300),
    "ties, to even": lambda: a_rule(2.0**-9, 0.25, 64, 2**20),
    "ties, to an odd zero point": lambda: a_rule(2.0**-9, 0.125, 65, 2**20),
    "identity": lambda: identity(1),
}


@pytest.mark.parametrize("name", RULES)
def test_requantise_equals_the_reference_at_every_threshold(program, name):
    """At each threshold, one below, one above, at the ends and at random between."""
    cl, queue, kernels, bits = program
    rule = RULES[name]()
    least, most = int(rule.exact.least[0]), int(rule.exact.most[0])
    steps = exact.thresholds(rule.exact, rule.low, rule.high).values[0]
    near = np.concatenate([steps - 1, steps, steps + 1, [least, most, 0, -1, 1]])
    between = np.random.default_rng(1).integers(least, most, 20000, endpoint=True)
    accumulators = np.clip(np.concatenate([near, between]), least, most).astype(np.int32)
    source = cl.Buffer(queue.context, cl.mem_flags.COPY_HOST_PTR, hostbuf=accumulators)
    offset = int(rule.offset[0]) - (int(rule.multiplier[0]) << (bits - 1))
    constants = [np.uint32(rule.multiplier[0]), np.int64(offset)]
    ends = (rule.shift[0], tie(int(rule.mask[0]), int(rule.shift[0])), rule.increment, rule.low, rule.high)
    constants += [np.int32(x) for x in ends]
    got = read(cl, queue, kernels["rq"], (len(accumulators),), np.uint8, len(accumulators), source, read, *constants)
    assert np.array_equal(got, reference.requantise(accumulators[:, None].astype(np.int64), rule)[:, 0])
    some = range(0, len(accumulators), 97)  # and the file's own meaning, in integers of any size
    want = [exact.affine_value(rule.exact, 0, int(accumulators[i]), rule.low, rule.high) for i in some]
    assert got[::97].tolist() == want


SUMS = {
    "residual": lambda: add_rule((0.021, 3), (0.034, 130), (0.041, 0), 0, 255),
    "clipped": lambda: add_rule(
        (float(np.float32(0.437)), 128), (float(np.float32(0.00113)), 0), (float(np.float32(0.0197)), 7), 5, 240
    ),
    "change of scale": lambda: add_rule((0.03, 12), None, (0.017, 99), 0, 255),
    "ties": lambda: add_rule((0.25, 10), (0.5, 20), (0.5, 30), 0, 255),
    "ties, odd zero point": lambda: add_rule((0.25, 10), (0.25, 21), (0.5, 31), 0, 255),
}


@pytest.mark.parametrize("name", SUMS)
def test_addition_equals_the_reference_for_every_pair(program, name):
    cl, queue, kernels, _ = program
    rule = SUMS[name]()
    constants = [np.uint32(rule.multiplier), np.uint32(rule.residual_multiplier), np.int64(rule.offset)]
    constants += [np.int32(x) for x in (rule.shift, tie(rule.mask, rule.shift), rule.increment, rule.low, rule.high)]
    got = read(cl, queue, kernels["adds"], (256, 256), np.uint8, 65536, read, *constants)
    r, y = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8), indexing="ij")
    assert np.array_equal(got.reshape(256, 256), reference.add(y, r, rule))
    for first, second in ((0, 0), (255, 255), (17, 200), (128, 3)):
        assert got[second * 256 + first] == exact.sum_value(rule.exact, first, second, rule.low, rule.high)


@pytest.mark.parametrize("multiplier", [0, 1, 2**27 - 1, 0x5A5A5A5])
def test_a_product_in_logic_is_exact(program, multiplier):
    cl, queue, kernels, _ = program
    got = read(cl, queue, kernels["rows"], (256,), np.uint64, 256, read, np.uint32(multiplier))
    assert got.tolist() == [x * multiplier for x in range(256)]


def test_a_tie_mask_without_a_form_is_refused():
    assert tie(-1, 20) == 0
    assert tie(0xFF00, 16) == 9
    with pytest.raises(ModelError, match="tie mask 0xf00 for a shift of 16"):
        tie(0xF00, 16)
