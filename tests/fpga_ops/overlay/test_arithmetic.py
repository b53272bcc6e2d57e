"""kernels/fpga/arithmetic.h against the reference, on whatever OpenCL CPU driver is here."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from fpga_ops.ir import reference
from fpga_ops.ir.network import AddRule, Requantise
from fpga_ops.overlay import block_float
from fpga_ops.overlay.kernels import source_directory
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
__kernel void rq(__global const int *acc, __global uchar *out, int pre, int shift, int m, int low, int high) {
  out[get_global_id(0)] = requantise(acc[get_global_id(0)], pre, shift, m, low, high);
}
__kernel void adds(__global uchar *out, int first, int second, int offset, int shift, int low, int high) {
  out[get_global_id(1) * 256 + get_global_id(0)] =
      add_rule(get_global_id(0), get_global_id(1), first, second, offset, shift, low, high);
}
__kernel void blocks(__global int *out) {
  const int x = get_global_id(0), any = get_global_id(1), e = block_exponent(any);
  out[any * 256 + x] = block_mantissa(x, e) << e;
}
"""


@pytest.fixture(scope="module")
def program():
    cpus = [device for device in opencl.list_devices() if device.is_cpu and not device.is_emulator]
    if not cpus:
        pytest.fail("no OpenCL CPU driver: pip install 'triton-fpga[engine]'")
    cl = opencl.module()
    context = cl.Context([cpus[0].handle])
    source = (source_directory() / "arithmetic.h").read_text() + KERNELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cl.CompilerWarning)  # the driver tells how it vectorised
        built = cl.Program(context, source).build(cache_dir=False)
    kernels = {kernel.function_name: kernel for kernel in built.all_kernels()}
    yield cl, cl.CommandQueue(context), kernels
    del context  # Intel's driver ends a context with its last handle, whatever queues it has


def read(cl, queue, kernel, size, dtype, count, *args):
    out = cl.Buffer(queue.context, cl.mem_flags.READ_WRITE, count * np.dtype(dtype).itemsize)
    kernel(queue, size, None, *[out if arg is read else arg for arg in args])
    result = np.empty(count, dtype)
    cl.enqueue_copy(queue, result, out)
    return result


def test_two_products_in_one_multiplier_are_exact_for_every_operand(program):
    cl, queue, kernels = program
    wrong = read(cl, queue, kernels["pairs"], (256, 256), np.int32, 2 * 65536, read)
    assert not wrong.any()  # 2^24 pairs


def test_packed_operand_and_product_fit_an_18x19_multiplier():
    weights = np.arange(-128, 128)
    packed = weights[:, None] * 1024 + weights
    assert packed.min() >= -(2**18)
    assert packed.max() < 2**18


@pytest.mark.parametrize(
    ("pre", "shift", "multiplier"), [(0, 0, 16384), (0, 7, 32767), (6, 0, 16384), (3, 12, 20001), (0, 31, 30000)]
)
def test_requantise_equals_the_reference(program, pre, shift, multiplier):
    cl, queue, kernels = program
    limit = 2 ** (31 - pre) - 1
    rng = np.random.default_rng(1)
    random = [rng.integers(-bound, bound, 5000) for bound in (limit, 70000)]
    acc = np.concatenate([[-limit, limit, 0, -1, 1], *random])
    acc = np.clip(acc, -limit, limit).astype(np.int32)
    source = cl.Buffer(queue.context, cl.mem_flags.COPY_HOST_PTR, hostbuf=acc)
    constants = [np.int32(v) for v in (pre, shift, multiplier, 3, 250)]
    got = read(cl, queue, kernels["rq"], (len(acc),), np.uint8, len(acc), source, read, *constants)
    rule = Requantise(np.zeros(1, np.int32), np.array([multiplier], np.int16), np.array([shift], np.uint8), pre, 3, 250)
    assert np.array_equal(got, reference.requantise(acc[:, None].astype(np.int64), rule)[:, 0])


@pytest.mark.parametrize(
    "rule", [AddRule(65535, 1, -32768, 1), AddRule(3300, 3900, 77, 4, 5, 240), AddRule(0, 65535, -5, 3)]
)
def test_addition_equals_the_reference_for_every_pair(program, rule):
    cl, queue, kernels = program
    constants = [
        np.int32(v)
        for v in (rule.multiplier, rule.residual_multiplier, rule.offset, rule.fraction_bits, rule.low, rule.high)
    ]
    got = read(cl, queue, kernels["adds"], (256, 256), np.uint8, 65536, read, *constants)
    r, y = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8), indexing="ij")
    assert np.array_equal(got.reshape(256, 256), reference.add(y, r, rule))


def test_block_rounding_equals_the_reference(program):
    cl, queue, kernels = program
    got = read(cl, queue, kernels["blocks"], (256, 256), np.int32, 65536, read).reshape(256, 256)
    for top in range(256):  # a block of two: x and its largest value
        x = np.arange(top + 1, dtype=np.uint8)
        block = np.stack([x, np.full_like(x, top)], axis=-1)
        assert np.array_equal(got[top, : top + 1], block_float.round_activations(block, 2)[:, 0])
