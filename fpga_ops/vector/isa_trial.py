"""The child process of `isa.py`: exit code 0 if a feature works on the device named.

usage: python -m fpga_ops.vector.isa_trial SET|yield PLATFORM DEVICE PARENT_PID
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from fpga_ops.runtime import opencl
from fpga_ops.runtime.parent_death import end_with
from fpga_ops.vector import isa
from fpga_ops.vector.source import prelude

_YIELD_KERNEL = """
int sched_yield(void);
__kernel void probe(G int* result) { result[0] = sched_yield() + 42; }
"""

_SET_KERNEL = """
__kernel void probe(G int16* sums, G const uchar* bytes, G const int* words, G const int16* weights)
{
  sums[0] = add_products(sums[0], spread_bytes(bytes), weights[0]);
  sums[1] = add_pairs(sums[1], (int16)words[0], weights[1]);
  sums[2] = shift_right(sums[2], sums[3]);
  sums[3] = nearest_float(convert_float16(sums[3]) / 2.0f);
#if TRANSFORMS
  sums[4] = AS(weigh_bytes(36, 24, AS(weights[0], char64)), int16);
#endif
}
"""


def _run(name: str, platform: str, device_name: str, kernel: str, arrays: list[np.ndarray[Any, Any]]) -> None:
    """Run a kernel of one work-item on arrays, which it may change."""
    cl = opencl.module()
    device = next(d for d in opencl.list_devices() if d.platform == platform and d.name == device_name)
    context = opencl.open_context(device)
    source = prelude(isa.by_name(name), persistent=False) + kernel
    program, _ = opencl.build(context, device, source, ["-cl-std=CL3.0"], None)
    queue, probe = cl.CommandQueue(context), cl.Kernel(program, "probe")
    copy = cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR
    buffers = [cl.Buffer(context, copy, hostbuf=array) for array in arrays]
    for index, buffer in enumerate(buffers):
        probe.set_arg(index, buffer)
    cl.enqueue_nd_range_kernel(queue, probe, (1,), (1,))
    for array, buffer in zip(arrays, buffers, strict=True):
        cl.enqueue_copy(queue, array, buffer)


def yields(platform: str, device: str) -> bool:
    """Whether a kernel can give its core away."""
    result = np.zeros(1, np.int32)
    _run("portable", platform, device, _YIELD_KERNEL, [result])
    return bool(result[0] == 42)


def computes(entry: isa.InstructionSet, platform: str, device: str) -> bool:
    """Whether what a set's files define is right: products to the ends of their ranges, shifts, rounding, weighing."""
    rng = np.random.default_rng(1)
    most = 64 if entry.saturates else 128  # such pairs can saturate with no bytes
    weights = rng.integers(-most, most, (16, 4)).astype(np.int8)
    weights[0], weights[1] = most - 1, -most
    pairs = rng.integers(-6272, 6273, (16, 2)).astype(np.int16)
    pairs[0], pairs[1] = 6272, -6272
    octets = np.array([255, 255, 254, 253], np.uint8)
    words = np.array([-20400, 20400], np.int16)
    bits = np.arange(1, 32, 2, dtype=np.int32)
    wide = rng.integers(-(1 << 31), 1 << 31, 16)
    start = np.stack([*rng.integers(-99, 99, (2, 16)), wide, bits, np.zeros(16)]).astype(np.int32)
    taps = np.concatenate([weights.view(np.uint8).ravel(), pairs.view(np.uint8).ravel()])
    products = weights.astype(np.int32) @ octets, pairs.astype(np.int32) @ words
    weighed = (weights.reshape(-1, 2) @ np.array([36, 24], np.int16)).view(np.int32) if entry.transforms else start[4]
    expected = np.stack([*(start[:2] + products), start[2] >> bits, np.rint(bits / 2), weighed])
    kernel = f"#define TRANSFORMS {int(entry.transforms)}\n" + _SET_KERNEL
    _run(entry.name, platform, device, kernel, [start, octets, words.view(np.int32), taps])
    return bool((start == expected).all())


if __name__ == "__main__":
    end_with(int(sys.argv[4]))
    if sys.argv[1] == "yield":
        sys.exit(not yields(*sys.argv[2:4]))
    sys.exit(not computes(isa.by_name(sys.argv[1]), *sys.argv[2:4]))
