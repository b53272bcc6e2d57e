"""The vector kernels equal the reference bit for bit, with and without the dot instruction, on every CPU driver."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache as once
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fpga_ops import vector
from fpga_ops.devices import find
from fpga_ops.errors import DeviceError, InputError, ModelError, NotFiniteError
from fpga_ops.ir import classifier_head, reference
from fpga_ops.ir.network import Conv, IntegerNetwork
from fpga_ops.ir.reference import ReferenceExecutable
from fpga_ops.runtime import opencl
from fpga_ops.runtime.warn_once import warn_once
from fpga_ops.vector import isa, packing, tiles
from fpga_ops.vector.plan import make_plan
from fpga_ops.vector.shapes import Geometry, Tile
from tests.support import networks


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all tests of this file, so that a program is built once."""
    return tmp_path_factory.mktemp("programs")


def drivers() -> list[opencl.OpenCLDevice]:
    """Every OpenCL device that is a CPU, the emulator included."""
    return [device for device in opencl.list_devices() if device.is_cpu]


def variants() -> list[object]:
    return list(_variants())


def _variants() -> Iterator[object]:
    for device in drivers():
        sets = [(entry.name, True) for entry in isa.SETS if isa.may_work(entry, device)] if device.is_intel_cpu else []
        for name, persistent in [*sets, ("portable", False)]:
            words = [device.platform.split()[0], "emulator" if device.is_emulator else "cpu"]
            words += [name, "one-launch" if persistent else "layers"]
            marks = [pytest.mark.emulator] if device.is_emulator else []
            yield pytest.param(device, name, persistent, id="-".join(words), marks=marks)


@once
def sets_here() -> tuple[str, ...]:
    """Names of the instruction sets that the CPU device can be driven with."""
    device = find("cpu")[1]
    return tuple(entry.name for entry in isa.SETS if device is not None and isa.may_work(entry, device))


def assert_equal(network: IntegerNetwork, executable: vector.VectorExecutable, batches: tuple[int, ...]) -> None:
    rng = np.random.default_rng(5)
    expected_of = ReferenceExecutable(network)
    for count in batches:
        images = networks.random_images(network, count, rng)
        expected, came = expected_of.run(images), executable.run(images)
        assert came.keys() == expected.keys()
        for name, value in expected.items():
            assert came[name].dtype == np.uint8
            np.testing.assert_array_equal(came[name], value, err_msg=name)


@pytest.mark.parametrize(("device", "name", "persistent"), variants())
@pytest.mark.parametrize("seed", [0, 7])
def test_random_networks(device: opencl.OpenCLDevice, name: str, persistent: bool, seed: int, cache: Path) -> None:
    network = networks.random_network(np.random.default_rng(seed))
    executable = vector.compile(network, 3, device, cache, isa=name, persistent=persistent)
    assert_equal(network, executable, (1, 3, 2))
    executable.close()


def small_resnet(groups: int = 1, bottleneck: bool = True) -> IntegerNetwork:
    return networks.resnet((1, 1), 16, (30, 26, 3), bottleneck=bottleneck, classes=10, groups=groups, seed=2)


@pytest.mark.parametrize(("device", "name", "persistent"), variants())
def test_small_resnet(device: opencl.OpenCLDevice, name: str, persistent: bool, cache: Path) -> None:
    network = small_resnet()
    executable = vector.compile(network, 2, device, cache, isa=name, persistent=persistent)
    assert "conv_pool" in [layer.kind for layer in executable.plan.layers]
    assert_equal(network, executable, (1, 2))
    executable.close()


@pytest.mark.parametrize("seed", range(10, 14))
def test_more_random_networks(seed: int, cache: Path) -> None:
    network = networks.random_network(np.random.default_rng(seed), depth=8)
    executable = vector.compile(network, 2, cache_dir=cache)
    assert_equal(network, executable, (2, 1))
    executable.close()


def one_convolution(
    channels: int, outputs: int, size: tuple[int, int], groups: int = 1, *, residual: bool = False, **options: object
) -> IntegerNetwork:
    builder = networks.Builder(np.random.default_rng(3))
    x = builder.conv(builder.input(*size, 16), channels)
    other = builder.conv(x, outputs, relu=False) if residual else None
    y = builder.conv(x, outputs, groups=groups, residual=other, **options)  # type: ignore[arg-type]
    return builder.build(y)


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(one_convolution(64, 192, (9, 9), 4, kernel=(3, 3), pads=(1, 1, 1, 1)), id="groups-of-48"),
        pytest.param(one_convolution(64, 64, (9, 9), 32, kernel=(3, 3), pads=(1, 1, 1, 1)), id="groups-of-2"),
        pytest.param(one_convolution(40, 40, (9, 9), 40, kernel=(3, 3), pads=(1, 1, 1, 1)), id="depthwise"),
        pytest.param(one_convolution(128, 128, (6, 6), 2, kernel=(3, 3), strides=(2, 2)), id="groups-of-64"),
        pytest.param(one_convolution(72, 64, (7, 7), 4), id="groups-of-18-channels"),
        pytest.param(one_convolution(700, 65, (5, 5)), id="many-channels"),
        pytest.param(one_convolution(32, 1000, (1, 1)), id="one-pixel"),
        pytest.param(one_convolution(16, 64, (12, 13), residual=True), id="residual-64"),
        pytest.param(one_convolution(16, 32, (12, 13), residual=True), id="residual-32"),
        pytest.param(one_convolution(16, 48, (12, 13), residual=True, high=140), id="residual-bounded"),
        pytest.param(one_convolution(16, 64, (5, 40), kernel=(1, 7), pads=(0, 5, 0, 2), high=99), id="bounded"),
        pytest.param(one_convolution(16, 64, (40, 5), kernel=(7, 1), pads=(0, 0, 6, 0)), id="asymmetric-pads"),
    ],
)
def test_shapes(network: IntegerNetwork, cache: Path) -> None:
    for name in sets_here():
        executable = vector.compile(network, 2, cache_dir=cache, isa=name)
        assert_equal(network, executable, (2,))
        executable.close()


SIXTEEN_TILES = [(13, 14), (14, 14), (16, 15)]


@pytest.mark.parametrize("channels", [64, 192])
@pytest.mark.parametrize("size", [(9, 10), (12, 13), *SIXTEEN_TILES, (15, 18), (30, 11), (57, 16)], ids=str)
def test_winograd_on_maps_of_any_side(channels: int, size: tuple[int, int], cache: Path) -> None:
    """Tiles of 2 outputs at the edge, and tiles that reach beyond it; weights from near and from far."""
    network = one_convolution(channels, 128, size, kernel=(3, 3), pads=(1, 1, 1, 1), residual=True, high=140)
    for entry in map(isa.by_name, sets_here()):
        executable = vector.compile(network, 2, cache_dir=cache, isa=entry.name)
        shape = executable.plan.layers[-2].shape
        assert shape is not None
        assert shape.tile.winograd == entry.pairs
        assert shape.tile.transforms == (entry.transforms and channels == 192 and size in SIXTEEN_TILES)
        assert_equal(network, executable, (1, 2))
        executable.close()


def left_over() -> IntegerNetwork:
    """A change of scale and a batch normalisation on their own, of a map whose channels fill no vector."""
    builder = networks.Builder(np.random.default_rng(3))
    x = builder.conv(builder.input(9, 7, 3), 37)
    x = builder.conv(builder.affine(builder.rescale(x)), 64)
    return builder.build(builder.rescale(builder.affine(x), 0.02, 3, 0, 255))


@pytest.mark.parametrize(("device", "name", "persistent"), variants())
def test_changes_of_scale(device: opencl.OpenCLDevice, name: str, persistent: bool, cache: Path) -> None:
    """An addition with a second multiplier of 0, and a depthwise 1x1 convolution."""
    executable = vector.compile(left_over(), 2, device, cache, isa=name, persistent=persistent)
    assert_equal(left_over(), executable, (1, 2))
    executable.close()


class Chosen(tiles.TileTable):
    """Tiles from those that the rule weighs, but not the best."""

    number = 0

    def choose(self, geometry: Geometry) -> Tile:
        registers = tiles.register_tiles(geometry, self.isa)
        pixels, vectors = registers[(3 * self.number) % len(registers)]
        strip, panels, outer = tiles.cuts(geometry, self.isa, vectors, pixels, 2)[self.number % 2]
        return Tile(pixels, vectors, strip, panels, bool(self.number % 2) or outer)


@pytest.mark.parametrize("name", sets_here())
@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("channels", [16, 32, 112])
def test_every_tile_gives_the_same_bits(name: str, number: int, channels: int, cache: Path) -> None:
    """Where a tile's sums end beside the next tile's products there are steps for several, for one, and to spare."""
    network = one_convolution(channels, 128, (7, 9), residual=True)
    table = Chosen(2, isa.by_name(name), persistent=True)
    table.number = number
    executable = vector.compile(network, 1, cache_dir=cache, table=table)
    assert_equal(network, executable, (1,))
    executable.close()


class Fives(tiles.TileTable):
    """Tiles of five vectors, which four steps cannot share evenly, in strips of two tiles and two panels."""

    def choose(self, geometry: Geometry) -> Tile:
        return Tile(5, 1, 10, min(2, geometry.out_channels // 16), False)


@pytest.mark.parametrize("name", sets_here())
def test_a_tile_ends_within_its_own_strip(name: str, cache: Path) -> None:
    """Strips from the back are done in turn from the last one on: nothing may be written behind one."""
    network = one_convolution(16, 64, (10, 10), residual=True)
    executable = vector.compile(network, 1, cache_dir=cache, table=Fives(2, isa.by_name(name), persistent=True))
    assert_equal(network, executable, (1,) * 20)
    executable.close()


def test_several_inputs_and_outputs(cache: Path) -> None:
    builder = networks.Builder(np.random.default_rng(4))
    x = builder.conv(builder.input(8, 8, 3), 20)
    y = builder.conv(builder.input(8, 8, 2, name="other"), 20)
    z = builder.add(x, y)
    end = builder.global_average_pool(z)
    network = replace(builder.build(z, end, x), inputs=("image", "other"))
    executable = vector.compile(network, 2, cache_dir=cache)
    assert_equal(network, executable, (1, 2))
    executable.close()


def test_input_quantisation_at_the_halves(cache: Path) -> None:
    """Rounding half to even, and values far outside the range."""
    builder = networks.Builder(np.random.default_rng(4))
    x = builder.input(4, 16, 1)
    network = builder.build(builder.conv(x, 16))
    executable = vector.compile(network, 1, cache_dir=cache)
    steps = np.array(
        [0.5, 1.5, 2.5, -0.5, -1.5, 1e30, -1e30, 3e38, 1e-40, 140.49999, 140.50001, -114.5, 0.0, -0.0, 7, 8]
    )
    image = np.tile((steps * 0.02).astype(np.float32), (4, 1))[None, None]
    expected = ReferenceExecutable(network).run({"image": image})
    np.testing.assert_array_equal(executable.run({"image": image})[network.outputs[0]], expected[network.outputs[0]])
    executable.close()


@pytest.mark.parametrize("scale", [0.02, 1 / 255, 0.125, 1e-44, 3e-39, 2e-30, 5e29, 1e31, 2e38])
@pytest.mark.parametrize("name", sets_here())
def test_input_quantisation_beside_the_halves(name: str, scale: float, cache: Path) -> None:
    """One value of a vector beside a half, or on it, among others that are clear, or all; scales of any size."""
    builder = networks.Builder(np.random.default_rng(4))
    builder.input(4, 16 * 3, 3)
    network = builder.build(builder.conv("image", 16))
    tensor = replace(network.tensors["image"], scale=float(np.float32(scale)), zero_point=3)
    network = replace(network, tensors={**network.tensors, "image": tensor})
    executable = vector.compile(network, 1, cache_dir=cache, isa=name)
    largest = np.finfo(np.float32).max
    real = (np.arange(-140, 300) + 0.5) * tensor.scale
    halves = real[np.abs(real) < largest].astype(np.float32)
    beside = [np.nextafter(halves, np.float32(np.inf * sign), dtype=np.float32) for sign in (-1, 1)]
    far = [np.clip(real * factor, -largest, largest) for factor in (1 + 3e-5, 1e4, 1e12)]
    values = np.concatenate([halves, *beside, *far]).astype(np.float32)
    rng = np.random.default_rng(0)
    clear = np.clip(rng.integers(-140, 300, (9, 3, 4, 48)) * tensor.scale, -largest, largest).astype(np.float32)
    for share, image in zip(np.linspace(0, 1, len(clear)), clear, strict=True):
        chosen = rng.random(image.shape) < share / 4
        image[chosen] = rng.choice(values, int(chosen.sum()))
        executable.run({"image": image[None]})
        expected = reference.quantise_input(image[None], tensor)
        np.testing.assert_array_equal(executable.read_tensor("image", 1), expected)
    executable.close()


@pytest.mark.parametrize("width", [16, 64])
def test_many_inferences_of_changing_images(width: int, cache: Path) -> None:
    """A task that reads too early finds the last inference's bytes: only changing images show it."""
    network = networks.resnet((1, 1), width, (30, 26, 3), classes=10, seed=2)
    executable = vector.compile(network, 2, cache_dir=cache)
    rng = np.random.default_rng(0)
    images = [networks.random_images(network, 1 + n % 2, rng) for n in range(7)]
    name = network.outputs[0]
    expected = [ReferenceExecutable(network).run(image)[name] for image in images]
    wrong = sum((executable.run(images[n % 7])[name] != expected[n % 7]).any() for n in range(1500))
    assert wrong == 0
    executable.close()


def test_threads_and_futures(cache: Path) -> None:
    network = small_resnet()
    executable = vector.compile(network, 2, cache_dir=cache)
    rng = np.random.default_rng(0)
    images = [networks.random_images(network, 1 + n % 2, rng) for n in range(12)]
    name = network.outputs[0]
    expected = [ReferenceExecutable(network).run(image)[name] for image in images]
    futures = [executable.submit(image) for image in images]
    for future, value in zip(futures, expected, strict=True):
        np.testing.assert_array_equal(future.result(timeout=60)[name], value)
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            if (executable.run(images[number])[name] != expected[number]).any():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    executable.close()


def test_a_batch_larger_than_a_launch(cache: Path) -> None:
    network = networks.random_network(np.random.default_rng(1), depth=1)
    executable = vector.compile(network, 150, cache_dir=cache)
    assert_equal(network, executable, (150, 3, 1, 67))
    executable.close()


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_any_number_of_cores(workers: int, cache: Path) -> None:
    """Also more work-groups than the machine has cores, with requests of all sizes at once."""
    network = small_resnet()
    executable = vector.compile(network, 7, cache_dir=cache, workers=workers)
    rng = np.random.default_rng(0)
    images = [networks.random_images(network, 1 + n, rng) for n in range(7)]
    name = network.outputs[0]
    expected = [ReferenceExecutable(network).run(image)[name] for image in images]
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda n: executable.run(images[n % 7])[name], range(140)))
    assert all(np.array_equal(result, expected[n % 7]) for n, result in enumerate(results))
    executable.close()


VALUES = (np.arange(256) * np.float32(0.07)).astype(np.float32)
HEADS = {
    "softmax": {"powers": classifier_head.exponential((VALUES - VALUES[-1]).astype(np.float64)), "softmax": True},
    "softmax-of-large-values": {"values": VALUES * np.float32(40), "softmax": True},
    "values": {},
    "gemm": {"weights": np.random.default_rng(0).normal(0, 0.1, (5, 10)).astype(np.float32).astype(np.float64)},
    "classifier": {
        "weights": np.random.default_rng(0).normal(0, 0.1, (3, 10)).astype(np.float32).astype(np.float64),
        "bias": np.arange(3.0), "softmax": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("kind", HEADS)
def test_the_head_in_the_kernel(kind: str, workers: int, cache: Path) -> None:
    """Scores have the bits of the numpy head, for one image, batches and many threads, with refusals in between."""
    network = small_resnet()
    options: dict[str, Any] = {"values": VALUES, "flat": True, **HEADS[kind]}
    outputs = len(options["weights"]) if "weights" in options else 10
    end = classifier_head.Head(source=network.outputs[0], output="y", shape=(outputs,), **options)
    executable = vector.compile(network, 5, cache_dir=cache, workers=workers, head=end)
    if not executable.makes_scores:
        pytest.skip("this device does not work in the caller's memory")
    rng = np.random.default_rng(0)
    images = [networks.random_images(network, 1 + n % 5, rng) for n in range(10)]
    reference = ReferenceExecutable(network)
    integers = [reference.run(image) for image in images]
    expected = [end.run(value)["y"] for value in integers]

    def work(number: int) -> bool:
        image = images[number % 10]["image"]
        if number % 7 == 0:
            with pytest.raises(NotFiniteError):
                executable.scores({"image": np.full_like(image, np.nan)})
        if number % 3 == 0:
            assert np.array_equal(executable.run(images[number % 10])[end.source], integers[number % 10][end.source])
        came = executable.run_single(image) if len(image) == 1 else None
        came = executable.scores({"image": image}) if came is None else came
        return came["y"].dtype == np.float32 and np.array_equal(came["y"], expected[number % 10])

    assert all(map(work, range(20)))
    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(200)))
    kept = [executable.run_single(images[0]["image"]) for _ in range(40)]
    assert all(one is not None and np.array_equal(one["y"], expected[0]) for one in kept)
    assert len({id(one) for one in kept}) == 40
    with pytest.raises(NotFiniteError):
        executable.run_single(np.full_like(images[0]["image"], np.inf))
    executable.close()
    assert executable.run_single(images[0]["image"]) is None
    with pytest.raises(DeviceError, match="closed"):
        executable.scores(images[0])


def test_one_image_without_a_head(cache: Path) -> None:
    network = small_resnet()
    executable = vector.compile(network, 3, cache_dir=cache)
    images = [networks.random_images(network, 1, np.random.default_rng(seed)) for seed in range(4)]
    expected = [ReferenceExecutable(network).run(image) for image in images]
    name = network.inputs[0]

    def work(number: int) -> bool:
        image = images[number % 4]
        came = executable.run_single(image[name]) or executable.run(image)
        return all(np.array_equal(came[key], value) for key, value in expected[number % 4].items())

    assert all(map(work, range(8)))
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(80)))
    executable.close()
    assert executable.run_single(images[0][name]) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, np.float32(np.frombuffer(b"\1\0\x80\xff", np.float32)[0])])
def test_values_that_are_not_finite_are_refused(value: float, cache: Path) -> None:
    for channels in (1, 2, 3):
        builder = networks.Builder(np.random.default_rng(4))
        network = builder.build(builder.conv(builder.input(5, 19, channels), 16))
        executable = vector.compile(network, 3, cache_dir=cache)
        image = networks.random_images(network, 3, np.random.default_rng(0))["image"]
        for place in ((0, 0, 0, 0), (1, channels - 1, 4, 18), (2, 0, 2, 5)):
            bad = image.copy()
            bad[place] = value
            with pytest.raises(NotFiniteError):
                executable.run({"image": bad})
        assert_equal(network, executable, (1, 3))
        executable.close()


def test_only_the_owner_of_a_bad_value_gets_the_error(cache: Path) -> None:
    network = small_resnet()
    executable = vector.compile(network, 1, cache_dir=cache)
    good = networks.random_images(network, 1, np.random.default_rng(0))
    bad = {"image": np.full_like(good["image"], np.nan)}
    expected = ReferenceExecutable(network).run(good)[network.outputs[0]]

    def work(number: int) -> bool:
        if number % 3 == 0:
            with pytest.raises(NotFiniteError):
                executable.run(bad)
            return True
        return np.array_equal(executable.run(good)[network.outputs[0]], expected)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(90)))
    executable.close()


def test_arrays_as_requests_bring_them(cache: Path) -> None:
    """Read-only, not aligned, not contiguous."""
    network = small_resnet()
    executable = vector.compile(network, 2, cache_dir=cache)
    images = networks.random_images(network, 2, np.random.default_rng(0))["image"]
    expected = ReferenceExecutable(network).run({"image": images})[network.outputs[0]]
    shifted = np.zeros(images.nbytes + 1, np.uint8)
    shifted[1:] = images.view(np.uint8).ravel()
    for array in (
        np.frombuffer(images.tobytes(), np.float32).reshape(images.shape),
        shifted[1:].view(np.float32).reshape(images.shape),
        np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    ):
        np.testing.assert_array_equal(executable.run({"image": array})[network.outputs[0]], expected)
    executable.close()


@pytest.mark.slow
def test_memory_does_not_grow(cache: Path) -> None:
    network = small_resnet()
    executable = vector.compile(network, 1, cache_dir=cache)
    images = networks.random_images(network, 1, np.random.default_rng(0))
    pages = []
    for _ in range(6):
        for _ in range(20_000):
            executable.run(images)
        pages.append(int(Path("/proc/self/statm").read_text().split()[1]))
    assert pages[-1] - pages[0] < 500  # 2 MB over 100,000 inferences
    executable.close()


def test_bad_inputs_are_refused(cache: Path) -> None:
    network = small_resnet()
    executable = vector.compile(network, 2, cache_dir=cache)
    good = np.zeros((1, 3, 30, 26), np.float32)
    for inputs in (
        {},
        {"image": good.astype(np.float64)},
        {"image": good[:, :2]},
        {"image": good[:, :, :, :25]},
        {"image": np.zeros((3, 3, 30, 26), np.float32)},
        {"image": np.zeros((0, 3, 30, 26), np.float32)},
    ):
        with pytest.raises(InputError):
            executable.run(inputs)
    flipped = np.asfortranarray(good)
    assert executable.run({"image": flipped})
    executable.close()
    with pytest.raises(DeviceError, match="closed"):
        executable.run({"image": good})
    executable.close()


def test_a_network_too_large_for_memory_is_refused() -> None:
    network = small_resnet()
    with pytest.raises(ModelError, match="lower max_batch"):
        make_plan(network, 1 << 22, tiles.TileTable(2, isa.PORTABLE))


def test_damaged_cache_files_are_made_again(tmp_path: Path) -> None:
    network = networks.random_network(np.random.default_rng(1), depth=1)
    vector.compile(network, 1, cache_dir=tmp_path).close()
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    executable = vector.compile(network, 1, cache_dir=tmp_path)
    assert_equal(network, executable, (1,))
    executable.close()


def test_a_new_version_of_the_weights_needs_no_new_program(cache: Path) -> None:
    network = small_resnet()
    step = network.steps[0]
    assert isinstance(step, Conv)
    other = replace(network, steps=(replace(step, weights=step.weights[::-1].copy()), *network.steps[1:]))
    first, second = (vector.compile(n, 2, cache_dir=cache) for n in (network, other))
    assert first.kernel_hash == second.kernel_hash
    assert_equal(other, second, (1,))
    first.close()
    second.close()


def test_stored_tensors_can_be_read_back(cache: Path) -> None:
    network = networks.resnet((1,), 16, (20, 20, 3), classes=None, seed=3)
    executable = vector.compile(network, 1, cache_dir=cache)
    assert_equal(network, executable, (1,))
    executable.close()


def test_profile_stamps_rise(cache: Path) -> None:
    network = small_resnet()
    executable = vector.compile(network, 1, cache_dir=cache, persistent=True, profile=True)
    executable.run({"image": np.zeros((1, 3, 30, 26), np.float32)})
    stamps = executable.layer_times()
    assert stamps[-1] > stamps[0] > 0
    executable.close()


def test_a_trial_survives_a_compiler_that_dies(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(isa.ISA_VARIABLE, raising=False)
    device = find("cpu")[1]
    assert device is not None
    warn_once.cache_clear()
    monkeypatch.setattr(isa, "may_work", lambda *_: True)
    monkeypatch.setattr(isa, "_interpreter", lambda: "/bin/false")
    with caplog.at_level(logging.WARNING, logger="fpga_ops"):  # whatever another test has set
        for _ in range(2):  # the second time from the cache
            assert isa.choose(device, tmp_path) is isa.PORTABLE
    assert sum("'avx2' does not work" in line for line in caplog.messages) == 1
    monkeypatch.setattr(isa, "_interpreter", lambda: "/nonexistent/python")
    assert not isa.can_yield(device, tmp_path)


def test_a_verdict_is_for_what_was_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A set that failed in another release is tried again, and one that worked there is not trusted."""
    monkeypatch.delenv(isa.ISA_VARIABLE, raising=False)
    device = find("cpu")[1]
    assert device is not None
    best = isa.choose(device, tmp_path / "other")
    with monkeypatch.context() as other:
        other.setattr(isa, "_trial_digest", lambda _: "other")
        other.setattr(isa, "_interpreter", lambda: "/bin/false")
        assert isa.choose(device, tmp_path) is isa.PORTABLE
    assert isa.choose(device, tmp_path) is best
    digests = {isa._trial_digest(name) for name in ("avx512_vnni", "avx_vnni", "avx512bw", "avx2", "yield")}
    assert len(digests) == 5


def test_without_the_flags_no_set_is_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(isa.ISA_VARIABLE, raising=False)
    device = find("cpu")[1]
    assert device is not None
    monkeypatch.setattr(isa, "cpu_flags", lambda: frozenset({"sse2"}))
    monkeypatch.setattr(isa, "_ask", lambda *_: pytest.fail("the child process was started"))
    assert isa.choose(device, tmp_path) is isa.PORTABLE


def test_the_flags_decide_between_sets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(isa.ISA_VARIABLE, raising=False)
    device = find("cpu")[1]
    assert device is not None
    monkeypatch.setattr(isa, "_ask", lambda *_: True)
    avx2, avx512 = {"avx2", "fma"}, {"avx512f", "avx512bw", "avx512vl"}
    for flags, name in (
        (avx2, "avx2"), (avx2 | avx512, "avx512bw"), (avx2 | {"avx_vnni"}, "avx_vnni"),
        (avx2 | avx512 | {"avx512_vnni"}, "avx512_vnni"),
    ):  # fmt: skip
        monkeypatch.setattr(isa, "cpu_flags", lambda flags=flags: frozenset(flags))
        assert isa.choose(device, tmp_path).name == name


@pytest.mark.parametrize("wrong", ["avx3", "AVX2", "amx"])
def test_an_unknown_set_is_refused(wrong: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(isa.ISA_VARIABLE, wrong)
    network = small_resnet()
    with pytest.raises(DeviceError, match=f"FPGA_OPS_ISA: '{wrong}' is no instruction set; .*portable") as caught:
        vector.compile(network, 1, cache_dir=tmp_path)
    assert all(name in str(caught.value) for name in sets_here())
    with pytest.raises(DeviceError, match="is no instruction set"):  # rather than the slow reference, unasked
        find(None)


def test_a_set_that_the_cpu_lacks_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(isa.ISA_VARIABLE, "avx512_vnni")
    monkeypatch.setattr(isa, "cpu_flags", lambda: frozenset({"avx2", "fma"}))
    with pytest.raises(DeviceError, match=r"'avx512_vnni' does not work on .*avx2, portable"):
        vector.compile(small_resnet(), 1, cache_dir=tmp_path)


@pytest.mark.parametrize("name", sets_here())
def test_a_set_that_is_named_is_used(name: str, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv(isa.ISA_VARIABLE, name)
    executable = vector.compile(small_resnet(), 2, cache_dir=cache)
    assert executable.isa == name
    assert isa.by_name(name).title in find("cpu")[0].reason
    assert_equal(small_resnet(), executable, (2,))
    executable.close()


@pytest.mark.parametrize(("lanes", "registers"), [(4, 16), (8, 16), (16, 32)])
def test_a_portable_program_fills_the_registers_that_there_are(lanes: int, registers: int) -> None:
    device = replace(opencl.list_devices()[0], handle=SimpleNamespace(native_vector_width_float=lanes))
    assert isa.on(isa.PORTABLE, device) == replace(isa.PORTABLE, registers=registers)
    assert isa.on(isa.by_name("avx2"), device) == isa.by_name("avx2")


def test_verdicts_and_programs_are_for_one_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A home that machines share: another CPU, driver or target of the compiler is another key."""
    keys = [opencl.list_devices()[0].key]
    monkeypatch.setenv(opencl.TARGET_VARIABLE, "corei7-avx")
    keys.append(opencl.list_devices()[0].key)
    monkeypatch.setattr(opencl, "cpu_name", lambda: "another CPU")
    keys.append(opencl.list_devices()[0].key)
    monkeypatch.setattr(opencl, "cpu_flags", lambda: frozenset({"avx2"}))
    keys.append(opencl.list_devices()[0].key)
    assert len(set(keys)) == 4


@pytest.mark.parametrize("weights", ["uniform", "largest", "smallest", "small", "sparse"])
def test_products_that_16_bits_do_not_hold(weights: str, cache: Path) -> None:
    """Pairs of products up to the ends of the range, where vpmaddubsw saturates; weights where it never does."""
    rng = np.random.default_rng(2)
    network = one_convolution(64, 96, (6, 7), kernel=(3, 3))
    step = network.steps[-1]
    assert isinstance(step, Conv)
    shape = step.weights.shape
    made = {
        "uniform": rng.integers(-128, 128, shape), "largest": np.full(shape, 127), "smallest": np.full(shape, -128),
        "small": rng.integers(-64, 65, shape), "sparse": rng.integers(-128, 128, shape) * (rng.random(shape) < 0.02),
    }[weights].astype(np.int8)  # fmt: skip
    network = replace(network, steps=(*network.steps[:-1], replace(step, weights=made)))
    for name in sets_here():
        executable = vector.compile(network, 2, cache_dir=cache, isa=name)
        assert_equal(network, executable, (2,))
        executable.close()


def mixed_sizes(size: tuple[int, int], kernel: tuple[int, int]) -> IntegerNetwork:
    """A convolution whose source has large and small channels beside each other: its steps are of all kinds."""
    network = one_convolution(256, 96, size, kernel=kernel)
    first, second = network.steps[-2:]
    assert isinstance(first, Conv)
    assert isinstance(second, Conv)
    parts = 2 ** (np.arange(256) // 8 % 8)
    small = (first.weights / parts.reshape(-1, 1, 1, 1)).round().astype(np.int8)
    large = np.random.default_rng(2).integers(-128, 128, second.weights.shape).astype(np.int8)
    return replace(network, steps=(*network.steps[:-2], replace(first, weights=small), replace(second, weights=large)))


@pytest.mark.parametrize("size", [(6, 7), (40, 40)], ids=["small", "large"])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)], ids=str)
def test_steps_of_all_kinds(size: tuple[int, int], kernel: tuple[int, int], cache: Path) -> None:
    """Two steps that are summed in 16 bits, those that are not, and words."""
    network = mixed_sizes(size, kernel)
    first, second = network.steps[-2:]
    assert isinstance(second, Conv)
    integers = reference.run_integers(network, {
        name: reference.quantise_input(image, network.tensors[name])
        for name, image in networks.random_images(network, 1, np.random.default_rng(5)).items()
    })[first.output]  # fmt: skip
    pairs = integers.reshape(-1, 128, 2).sum(2, dtype=np.int64)[:6].max(0)  # of a tile of six pixels
    matrix = second.weights.transpose(0, 2, 3, 1).reshape(96, -1)[:, :256]
    two = (pairs.reshape(-1, 2, 2).sum(1).repeat(2, 0).ravel() <= packing.limits_of_four(matrix)).reshape(-1, 4).all(1)
    wide = (pairs > packing.limits(matrix)).reshape(-1, 4).any(1)
    assert min(two.sum(), wide.sum(), (~two & ~wide).sum()) > 0
    for name in sets_here():
        executable = vector.compile(network, 2, cache_dir=cache, isa=name)
        assert_equal(network, executable, (2,))
        executable.close()


@pytest.mark.parametrize("name", [name for name in sets_here() if isa.by_name(name).target])
def test_a_set_as_it_is_compiled_for_its_own_cpus(name: str, tmp_path: Path) -> None:
    """In a process of its own: the driver reads its target once."""
    program = f"from tests.fpga_ops import test_vector; test_vector.run_set({name!r}, {str(tmp_path)!r})"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], cwd=Path(__file__).parents[2], capture_output=True, text=True,
        timeout=300, check=False, env={**os.environ, opencl.TARGET_VARIABLE: isa.by_name(name).target},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def run_set(name: str, folder: str) -> None:
    """Networks with all of a set's kernels against the reference."""
    for network in (mixed_sizes((6, 7), (3, 3)), mixed_sizes((40, 40), (1, 1)), small_resnet()):
        executable = vector.compile(network, 2, cache_dir=Path(folder), isa=name)
        assert_equal(network, executable, (2,))
        executable.close()


def test_words_are_kept_for_all_panels_of_a_task(cache: Path) -> None:
    """On a map that large, what wide steps multiply is made once for a tile; it ends in integers and float32."""
    network = one_convolution(64, 128, (40, 40), residual=True)
    step = network.steps[-1]
    assert isinstance(step, Conv)
    weights = np.random.default_rng(2).integers(-128, 128, step.weights.shape).astype(np.int8)
    network = replace(network, steps=(*network.steps[:-1], replace(step, weights=weights)))
    for name in sets_here():
        executable = vector.compile(network, 2, cache_dir=cache, isa=name)
        shape = executable.plan.shapes[-1]
        if isa.by_name(name).saturates:
            assert shape.tile.pixels_outer
            assert shape.geometry.form(isa.by_name(name)).checked
        assert_equal(network, executable, (2,))
        executable.close()


def test_limits_are_the_largest_bytes_that_16_bits_hold() -> None:
    rng = np.random.default_rng(4)
    matrix = rng.integers(-128, 128, (3, 60)).astype(np.int8)
    matrix[:, :8] = [[127, 127, -128, -128, 127, -128, 64, 64], [1, 0, 0, -1, 9, 0, 3, 3], [0] * 8]
    first, second = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    for pair, limit in zip(
        matrix.reshape(3, -1, 2).transpose(1, 0, 2).astype(int), packing.limits(matrix), strict=True
    ):
        sums = first[..., None] * pair[:, 0] + second[..., None] * pair[:, 1]
        beyond = ((sums > 32767) | (sums < -32768)).any(-1)
        assert not beyond[first + second <= limit].any()
    assert packing.limits(matrix)[:4].tolist() == [258, 255, packing.NEVER, packing.NEVER]


def test_limits_of_four_hold_for_the_worst_bytes() -> None:
    """Two bytes of a step and two of the next: as many of the largest weights' as there may be, in any of the four."""
    matrix = np.random.default_rng(4).integers(-128, 128, (3, 64)).astype(np.int8)
    matrix[:, :16] = [[127] * 8 + [-128] * 8, [3] * 16, [0] * 16]
    matrix[:, 16:24] = 0
    limits = packing.limits_of_four(matrix).reshape(-1, 2, 2)  # two steps, step, pair
    np.testing.assert_array_equal(limits[:, 0], limits[:, 1])
    assert limits[:3, 0].tolist() == [[258, 258], [255, 255], [2 * packing.NEVER] * 2]
    fours = np.abs(matrix.astype(int)).reshape(3, -1, 2, 2, 2).transpose(1, 3, 0, 2, 4).reshape(-1, 2, 3, 4)
    for four, limit in zip(fours.reshape(-1, 3, 4), limits[:, 0].ravel(), strict=True):
        bytes_of_largest = np.clip(int(limit) - 255 * np.arange(4), 0, 255)  # the rest goes to the next largest
        assert (np.sort(four)[:, ::-1] * bytes_of_largest).sum(1).max() <= 32767


@pytest.mark.slow
@pytest.mark.parametrize("name", sets_here())
def test_resnet50_at_full_size(name: str, cache: Path) -> None:
    network = networks.resnet()
    executable = vector.compile(network, 2, cache_dir=cache, isa=name)
    assert_equal(network, executable, (1, 2))
    executable.close()
