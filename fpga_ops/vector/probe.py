"""The child process of `instruction.py`: exit code 0 if the int8 dot instruction works on the device named.

usage: python -m fpga_ops.vector.probe PLATFORM DEVICE
"""

from __future__ import annotations

import sys

import numpy as np

from fpga_ops import opencl
from fpga_ops.vector.source import kernel_file

_KERNEL = """
__kernel void probe(G int16* sums, G const char64* bytes, G short32* packed, G uchar64* narrow)
{
  sums[0] = dot_u8s8(sums[0], bytes[0], bytes[1]);
  packed[0] = high_product(pack_int_to_short(sums[0] << 8, sums[0]), (short32)(short)20000);
  narrow[0] = pack_short_to_uchar(packed[0], packed[0]);
}
"""


def main(platform: str, name: str) -> int:
    """Compute known sums; 0 if they are right."""
    cl = opencl.module()
    device = next(d for d in opencl.list_devices() if d.platform == platform and d.name == name)
    context = cl.Context([device.handle])
    source = "#define FAST 1\n#define PERSISTENT 0\n" + kernel_file("types.cl") + _KERNEL
    program, _ = opencl.build(context, device, source, ["-cl-std=CL3.0"], None)
    rng = np.random.default_rng(1)
    unsigned = rng.integers(0, 256, 64).astype(np.uint8)
    signed = rng.integers(-128, 128, 64).astype(np.int8)
    unsigned[:8], signed[:4], signed[4:8] = 255, 127, -128  # where a 16-bit intermediate would saturate
    start = rng.integers(-99, 99, 16).astype(np.int32)
    copy = cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR
    both = np.concatenate([unsigned, signed.view(np.uint8)])
    buffers = [cl.Buffer(context, copy, hostbuf=array) for array in (start, both)]
    buffers += [cl.Buffer(context, copy, hostbuf=np.zeros(64, np.uint8)) for _ in range(2)]
    queue = cl.CommandQueue(context)
    kernel = cl.Kernel(program, "probe")
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
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
