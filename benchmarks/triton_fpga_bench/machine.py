"""The machine under a benchmark: is it quiet, and how fast is its instruction."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fpga_ops.runtime import opencl
from fpga_ops.vector.isa import InstructionSet
from fpga_ops.vector.source import kernel_file, prelude

QUIET = 0.9
"""Share of idle time above which a machine counts as quiet."""


def idle_share(seconds: float = 0.15) -> float:
    """Share of the last `seconds` that all cores were idle; 1 where it cannot be read."""

    def read() -> tuple[int, int]:
        values = [int(v) for v in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        return values[3], sum(values)

    try:
        before = read()
        time.sleep(seconds)
        after = read()
    except OSError:
        return 1.0
    return (after[0] - before[0]) / max(1, after[1] - before[1])


def wait_until_quiet(limit_s: float) -> bool:
    """Wait until the machine is quiet; False if it was not within the limit."""
    end = time.monotonic() + limit_s
    while idle_share() < QUIET:
        if time.monotonic() > end:
            return False
    return True


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Ceiling:
    """Most operations per second of the inner loop's instruction, nothing loaded or stored.

    Attributes:
        gops: 1e9 operations per second (2 per multiply-accumulate), all workers together.
        instruction: What was measured.
    """

    gops: float
    instruction: str


def ceiling(device: opencl.OpenCLDevice, entry: InstructionSet, workers: int, repeats: int = 40) -> Ceiling:
    """Measure the ceiling: the best of many short bursts."""
    cl = opencl.module()
    context = opencl.open_context(device)
    chains = 24 if entry.registers == 32 else 6  # vectors of 16 channels that its registers hold, constants beside them
    source = f"#define CHAINS {chains}\n" + prelude(entry, persistent=False) + kernel_file("ceiling.cl")
    program, _ = opencl.build(context, device, source, ["-cl-std=CL3.0"], None)
    queue = cl.CommandQueue(context)
    kernel = cl.Kernel(program, "ceiling")
    loops = 40000
    result = cl.Buffer(context, cl.mem_flags.READ_WRITE, 64 * workers)
    start = np.full(64, 1, np.uint8)
    source_buffer = cl.Buffer(context, cl.mem_flags.READ_ONLY | cl.mem_flags.COPY_HOST_PTR, hostbuf=start)
    kernel.set_args(source_buffer, result, np.int32(loops))
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        cl.enqueue_nd_range_kernel(queue, kernel, (workers,), (1,)).wait()
        best = min(best, time.perf_counter() - begin)
    per_loop = chains * 32 * entry.step_bytes
    return Ceiling(workers * loops * per_loop / best / 1e9, entry.title)
