"""Choose tiles by measuring whole inferences.

Every trial compiles the network with the n-th candidate for each shape at once and reads the time of each layer from
time stamps inside the kernel, so a shape is judged where it runs: with its neighbours' data in the caches and all
workers at work. The table is kept per device, number of workers and instruction.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fpga_ops.errors import DeviceError
from fpga_ops.ir.network import IntegerNetwork
from fpga_ops.runtime import opencl
from fpga_ops.vector import executable, int8_dot, tiles
from fpga_ops.vector.shapes import Geometry, Tile

TRIALS = 14
PASSES = 2
"""Times that every candidate is measured; the better counts, so that a disturbance does not decide."""
GAIN = 0.02
"""Share that a candidate must save to replace the first choice: less is noise."""


def candidates(geometry: Geometry, workers: int, first: Tile, limit: int = TRIALS) -> list[Tile]:
    """Tiles worth a trial, `first` at the head."""
    found = [first]
    if geometry.winograd:
        found += tiles.winograd_tiles(geometry)[:3]
    registers = tiles.register_tiles(geometry)[:4]
    for number in range(4):
        for pixels, vectors in registers:
            cuts = tiles.cuts(geometry, vectors, pixels, workers)
            if number < len(cuts):
                strip, panels, outer = cuts[number]
                found.append(Tile(pixels, vectors, strip, panels, outer))
                if panels > 1:
                    found.append(Tile(pixels, vectors, strip, panels, not outer))
    unique = [tile for tile in dict.fromkeys(found) if tiles.valid(tile, geometry)]
    return unique[:limit]


def tune(
    network: IntegerNetwork,
    device: opencl.OpenCLDevice | None = None,
    cache_dir: Path | None = None,
    *,
    trials: int = TRIALS,
    seconds: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Tile]:
    """Tune the shapes of a network on a device and keep the table.

    Args:
        network: Its convolutions are tuned.
        device: None takes the CPU.
        cache_dir: As for `compile`.
        trials: Most candidates per shape.
        seconds: Length of one trial's measurement.
        progress: Called with (trials done, trials in all).

    Returns:
        The whole table of the device, with what earlier calls have found.

    Raises:
        DeviceError: The device has no one-launch kernel to take time stamps in.
    """
    folder = opencl.cache_directory(cache_dir)
    if device is None:
        from fpga_ops.devices import find

        device = find("cpu")[1]
    if device is None or not device.is_intel_cpu:
        raise DeviceError("tiles are tuned on Intel's CPU runtime only")
    fast, workers = int8_dot.available(device, folder), executable.default_workers(device)
    table = tiles.load(device, workers, fast, folder, allow_winograd=True)
    measured: dict[str, dict[Tile, float]] = {}
    choices: dict[str, list[Tile]] = {}
    total = 1
    done = 0
    while done < PASSES * total:
        trial = done % total
        trial_table = tiles.TileTable(workers, fast, dict(table.tuned), allow_winograd=True)
        trial_table.tuned |= {key: tried[trial % len(tried)] for key, tried in choices.items()}
        times, geometries = _time(network, device, folder, trial_table, seconds)
        if not choices:
            choices = {
                key: candidates(geometry, workers, trial_table.choose(geometry), trials)
                for key, geometry in geometries.items()
            }
            total = max((len(tried) for tried in choices.values()), default=1)
        for key, tried in choices.items():
            tile, known = tried[trial % len(tried)], measured.setdefault(key, {})
            known[tile] = min(times[key], known.get(tile, float("inf")))
        done += 1
        if progress is not None:
            progress(done, PASSES * total)
    result = dict(table.tuned)
    for key, tried in choices.items():
        best = min(tried, key=lambda tile: measured[key].get(tile, float("inf")))
        kept = measured[key][best] > (1 - GAIN) * measured[key][tried[0]]
        result[key] = tried[0] if kept else best
    tiles.save(result, tiles.table_path(device, workers, fast, folder))
    return result


def _time(
    network: IntegerNetwork, device: opencl.OpenCLDevice, folder: Path, table: tiles.TileTable, seconds: float
) -> tuple[dict[str, float], dict[str, Geometry]]:
    """Cycles per shape, summed over its layers, and the shapes."""
    ready = executable.compile(network, 1, device, folder, table=table, profile=True, serial=True)
    rng = np.random.default_rng(0)
    inputs = {}
    for name in network.inputs:
        tensor = network.tensors[name]
        values = rng.standard_normal((1, tensor.channels, tensor.height, tensor.width)) * 64 * tensor.scale
        inputs[name] = values.astype(np.float32)
    stamps: list[npt.NDArray[np.int64]] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(stamps) < 10:
        ready.run(inputs)
        stamps.append(ready.layer_times().astype(np.int64))
    ready.close()
    # the fastest twentieth is taken as undisturbed by others on the machine
    spent = np.percentile(np.diff(np.array(stamps[2:]), axis=1), 5, axis=0)
    times: dict[str, float] = {}
    geometries: dict[str, Geometry] = {}
    for layer, cycles in zip(ready.plan.layers, spent, strict=True):
        if layer.shape is not None:
            geometries[layer.shape.geometry.key] = layer.shape.geometry
            key = layer.shape.geometry.key
            times[key] = times.get(key, 0.0) + float(cycles)
    return times, geometries
