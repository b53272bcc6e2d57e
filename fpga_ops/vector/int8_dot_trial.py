"""The child process of `int8_dot.py`: exit code 0 if a feature works on the device named.

usage: python -m fpga_ops.vector.int8_dot_trial dot|yield PLATFORM DEVICE PARENT_PID
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from fpga_ops.runtime import opencl
from fpga_ops.runtime.parent_death import end_with
from fpga_ops.vector.source import kernel_file

_YIELD_KERNEL = """
int sched_yield(void);
__kernel void probe(G int* result) { result[0] = sched_yield() + 42; }
"""

_DOT_KERNEL = """
__kernel void probe(G int16* sums, G const char64* bytes, G short32* packed, G uchar64* narrow)
{
  sums[0] = dot_u8s8(sums[0], bytes[0], bytes[1]);
  packed[0] = high_product(pack_int_to_short(sums[0] << 8, sums[0]), (short32)(short)20000);
  narrow[0] = pack_short_to_uchar(packed[0], packed[0]);
}
"""


def _program(feature: str, platform: str, name: str) -> tuple[Any, Any, Any]:
    """The context, a queue and the feature's kernel."""
    cl = opencl.module()
    device = next(d for d in opencl.list_devices() if d.platform == platform and d.name == name)
    context = opencl.open_context(device)
    head = {"dot": "#define FAST 1\n", "yield": "#define FAST 0\n"}[feature] + "#define PERSISTENT 0\n"
    source = head + kernel_file("types.cl") + {"dot": _DOT_KERNEL, "yield": _YIELD_KERNEL}[feature]
    program, _ = opencl.build(context, device, source, ["-cl-std=CL3.0"], None)
    return context, cl.CommandQueue(context), cl.Kernel(program, "probe")


def yields(platform: str, name: str) -> bool:
    """Whether a kernel can give its core away."""
    cl = opencl.module()
    context, queue, kernel = _program("yield", platform, name)
    result = np.zeros(1, np.int32)
    buffer = cl.Buffer(context, cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR, hostbuf=result)
    kernel.set_args(buffer)
    cl.enqueue_nd_range_kernel(queue, kernel, (1,), (1,))
    cl.enqueue_copy(queue, result, buffer)
    return bool(result[0] == 42)


def dots(platform: str, name: str) -> bool:
    """Whether the dot instruction and the packing ones compute what they should."""
    cl = opencl.module()
    context, queue, kernel = _program("dot", platform, name)
    rng = np.random.default_rng(1)
    unsigned = rng.integers(0, 256, 64).astype(np.uint8)
    signed = rng.integers(-128, 128, 64).astype(np.int8)
    unsigned[:8], signed[:4], signed[4:8] = 255, 127, -128  # where a 16-bit intermediate would saturate
    start = rng.integers(-99, 99, 16).astype(np.int32)
    copy = cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR
    both = np.concatenate([unsigned, signed.view(np.uint8)])
    buffers = [cl.Buffer(context, copy, hostbuf=array) for array in (start, both)]
    buffers += [cl.Buffer(context, copy, hostbuf=np.zeros(64, np.uint8)) for _ in range(2)]
    kernel.set_args(*buffers)
    cl.enqueue_nd_range_kernel(queue, kernel, (1,), (1,))
    sums, packed, narrow = np.empty(16, np.int32), np.empty(32, np.int16), np.empty(64, np.uint8)
    for array, buffer in ((sums, buffers[0]), (packed, buffers[2]), (narrow, buffers[3])):
        cl.enqueue_copy(queue, array, buffer)
    expected = start + (unsigned.astype(np.int32) * signed).reshape(16, 4).sum(1)
    words = np.stack([(expected << 8).reshape(4, 4), expected.reshape(4, 4)], 1).reshape(32)
    words = (np.clip(words, -32768, 32767) * 20000) >> 16
    octets = np.clip(np.repeat(words.reshape(4, 1, 8), 2, 1), 0, 255).reshape(64)
    right = (sums == expected).all() and (packed == words).all() and (narrow == octets).all()
    return bool(right)


if __name__ == "__main__":
    end_with(int(sys.argv[4]))
    works = {"dot": dots, "yield": yields}[sys.argv[1]](sys.argv[2], sys.argv[3])
    sys.exit(0 if works else 1)
