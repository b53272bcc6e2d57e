"""The kernels on Intel's emulator equal the reference bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fpga_ops.errors import DeviceError
from fpga_ops.ir.network import Add, IntegerNetwork
from fpga_ops.ir.requantise import add_rule
from fpga_ops.overlay import Geometry, OverlayExecutable
from fpga_ops.overlay.device_process import COUNTERS
from fpga_ops.overlay.model.cycles import trips
from tests.fpga_ops.overlay.checks import check_bits, check_float_images, integer_images
from tests.fpga_ops.overlay.conftest import Emulate
from tests.support import networks

SMALL = Geometry(16, 16, 7)
pytestmark = pytest.mark.timeout(900)  # the emulator's threads spin, which a busy machine makes slow


def check(executable: OverlayExecutable, network: IntegerNetwork, count: int = 1, seed: int = 5) -> None:
    """Bits, and with counters the iterations of every loop."""
    check_bits(executable, network, count, seed)
    if executable.settings.counters:
        assert executable.trip_counts is not None
        for counted in executable.trip_counts:
            for descriptor, row in zip(executable.plan.descriptors, counted, strict=True):
                assert dict(zip(COUNTERS, row.tolist(), strict=True)) == trips(descriptor), descriptor.name


def conv_net(shape, channels, *args, **kwargs) -> IntegerNetwork:
    builder = networks.Builder(np.random.default_rng(3))
    x = builder.max_pool(builder.input(*shape), (1, 1), (1, 1), (0, 0, 0, 0))  # no folding of what follows
    return builder.build(builder.conv(x, channels, *args, **kwargs))


def residual_net() -> IntegerNetwork:
    builder = networks.Builder(np.random.default_rng(4))
    x = builder.input(14, 14, 32)
    shortcut = builder.conv(x, 64, relu=False)
    return builder.build(builder.conv(builder.conv(x, 16), 64, relu=True, residual=shortcut))


def pool_net() -> IntegerNetwork:
    builder = networks.Builder(np.random.default_rng(4))
    return builder.build(builder.max_pool(builder.input(28, 27, 48)))


def head_net() -> IntegerNetwork:
    builder = networks.Builder(np.random.default_rng(4))
    pooled = builder.global_average_pool(builder.conv(builder.input(9, 11, 20), 40))
    return builder.build(builder.dense(pooled, 10), pooled)


def add_net() -> IntegerNetwork:
    builder = networks.Builder(np.random.default_rng(4))
    x = builder.conv(builder.input(8, 8, 4), 24)
    return builder.build(builder.add(builder.add(x, x), x))  # both operands in one memory: copies


def rescale_net() -> IntegerNetwork:
    builder = networks.Builder(np.random.default_rng(4))
    return builder.build(builder.rescale(builder.conv(builder.input(8, 8, 4), 24)))


def affine_net() -> IntegerNetwork:
    builder = networks.Builder(np.random.default_rng(4))
    x = builder.affine(builder.max_pool(builder.input(9, 8, 37), (1, 1), (1, 1), (0, 0, 0, 0)))
    return builder.build(builder.conv(x, 16))


def doubled_net() -> IntegerNetwork:
    """An addition of a tensor to itself, as a rule with one multiplier; what the importer makes of `x + x`."""
    builder = networks.Builder(np.random.default_rng(4))
    x = builder.conv(builder.input(8, 9, 4), 24)
    zero_point = builder.tensors[x].zero_point
    rule = add_rule((2 * builder.tensors[x].scale, zero_point), None, (0.035, 0), 3, 250)
    return builder.build(builder._finish(Add("twice", x, x, "twice", rule), "twice", 0.035, 0))


def dense_net() -> IntegerNetwork:
    builder = networks.Builder(np.random.default_rng(4))
    x = builder.conv(builder.input(8, 8, 3), 33, (3, 3))
    return builder.build(builder.dense(builder.dense(x, 70), 5))


LAYERS = {
    "3x3": lambda: conv_net((14, 14, 32), 48, (3, 3), pads=(1, 1, 1, 1)),
    "1x1": lambda: conv_net((7, 7, 64), 64),
    "odd": lambda: conv_net((9, 13, 20), 37, (3, 3), pads=(1, 1, 1, 1)),
    "strided": lambda: conv_net((14, 28, 32), 40, (3, 3), (2, 2), (1, 1, 1, 1)),
    "uneven": lambda: conv_net((15, 17, 5), 9, (4, 2), (3, 2), (2, 0, 1, 1)),
    "grouped": lambda: conv_net((8, 9, 64), 64, (3, 3), pads=(1, 1, 1, 1), groups=16),
    "odd groups": lambda: conv_net((8, 9, 30), 42, (3, 3), pads=(1, 1, 1, 1), groups=6),
    "depthwise": lambda: conv_net((8, 9, 40), 40, (3, 3), pads=(1, 1, 1, 1), groups=40),
    "depthwise 1x1": lambda: conv_net((8, 9, 40), 40, groups=40),
    "doubled": doubled_net,
    "clipped": lambda: conv_net((8, 9, 40), 40, high=96),
    "residual": residual_net,
    "pool": pool_net,
    "head": head_net,
    "add": add_net,
    "change of scale": rescale_net,
    "batch norm left over": affine_net,
    "dense": dense_net,
}


@pytest.mark.parametrize("layer", LAYERS)
def test_every_kind_of_layer(emulate: Emulate, layer: str) -> None:
    network = LAYERS[layer]()
    check(emulate(network, SMALL, counters=True), network, 2)


@pytest.mark.parametrize("layer", ["3x3", "strided", "grouped", "residual", "pool", "head", "dense"])
def test_with_the_boards_channel_depths(emulate: Emulate, layer: str) -> None:
    """Strict emulation and the board's lag: a depth too small would deadlock and time out."""
    network = LAYERS[layer]()
    check(emulate(network, SMALL, strict=True, counters=True, timeout=240.0), network)


def test_strict_emulation_finds_a_channel_that_is_too_shallow(
    emulate: Emulate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: with a depth below what is under way, the same layer does hang."""
    depths = Geometry.depths
    monkeypatch.setattr(Geometry, "depths", lambda self: depths(self) | {"RESULT_DEPTH": 1})
    network = LAYERS["3x3"]()
    device = emulate(network, SMALL, strict=True, timeout=240.0)
    device.settings = replace(device.settings, timeout=6.0)
    with pytest.raises(DeviceError, match="hangs"):
        device.run_integers(integer_images(network, 1))


def test_strict_depths_carry_a_whole_small_network(emulate: Emulate) -> None:
    network = networks.resnet((1, 1), 16, (32, 32, 3), classes=10)
    check(emulate(network, SMALL, strict=True, images=2, timeout=400.0), network, 2)


def test_autorun_kernels_as_on_the_board(emulate: Emulate) -> None:
    network = residual_net()
    executable = emulate(network, SMALL, autorun=True)
    check(executable, network, 1)
    check(executable, network, 2, seed=6)  # their state survives between batches


@pytest.mark.parametrize("layer", ["residual", "head", "doubled"])
def test_the_text_that_the_hardware_compiler_gets(emulate: Emulate, layer: str) -> None:
    """Every loop unrolled, crossbars and shifts of words with constant indices, initiation intervals demanded."""
    network = LAYERS[layer]()
    check(emulate(network, Geometry(8, 16, 3, wb=32), unrolled=True), network)


IMAGES = {
    "7x7 on one plane": ((19, 23, 1), (7, 7), (2, 2), (3, 3, 3, 3)),
    "7x7 on three planes": ((19, 23, 3), (7, 5), (2, 2), (3, 3, 3, 3)),
    "3x3 on three planes": ((9, 70, 3), (3, 3), (1, 1), (1, 1, 1, 1)),
    "the right end unused": ((8, 31, 2), (2, 2), (3, 3), (0, 0, 0, 0)),
    "1x1 of every other pixel": ((8, 30, 4), (1, 1), (2, 2), (0, 0, 0, 0)),
    "taller than wide": ((67, 2, 1), (4, 2), (2, 1), (1, 0, 2, 1)),
    "padded on one side": ((8, 40, 1), (3, 3), (1, 1), (0, 2, 1, 0)),
    "wider than a vector": ((9, 12, 3), (7, 7), (2, 2), (3, 3, 3, 3)),
    "many planes, packed by the host": ((9, 12, 21), (3, 3), (2, 2), (1, 1, 1, 1)),
}


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("geometry", [Geometry(32, 64, 9), Geometry(16, 24, 5, wb=32)], ids=lambda g: g.name)
def test_raw_images_become_windows_on_the_device(emulate: Emulate, geometry: Geometry, image: str) -> None:
    """Three interleaved images, so that rows begin anywhere in a word; the host sends their bytes and no others."""
    shape, kernel, strides, pads = IMAGES[image]
    builder = networks.Builder(np.random.default_rng(3))
    network = builder.build(builder.conv(builder.input(*shape), 20, kernel, strides, pads))
    executable = emulate(network, geometry, images=3, max_batch=3, counters=True)
    size = int(np.prod(shape))
    if shape[2] <= 8:
        assert executable.plan.input_bytes == -(-3 * size // 64) * 64
    check(executable, network, 3)


@pytest.mark.parametrize("images", [1, 2, 3])
def test_batches_and_interleaved_images(emulate: Emulate, images: int) -> None:
    network = networks.resnet((1, 1), 16, (32, 32, 1), classes=10)
    executable = emulate(network, Geometry(16, 32, 7), max_batch=5, images=images, counters=True)
    for count in (1, 5):
        check(executable, network, count, seed=count)


def test_dense_layers_larger_than_the_weight_buffers(emulate: Emulate) -> None:
    network = dense_net()
    geometry = Geometry(16, 16, 7, weight_tiles=27)
    check(emulate(network, geometry, images=2, counters=True), network, 2)


@pytest.mark.parametrize(
    "geometry", [Geometry(8, 24, 3, wb=32), Geometry(32, 64, 9), Geometry(16, 48, 5, wb=128)], ids=lambda g: g.name
)
def test_other_geometries(emulate: Emulate, geometry: Geometry) -> None:
    network = networks.resnet((1, 1), 16, (32, 32, 3), bottleneck=False, classes=10)
    check(emulate(network, geometry, counters=True), network)


@pytest.mark.parametrize("layer", ["3x3", "odd", "residual", "dense"])
def test_two_products_in_a_multiplier_change_no_bit(emulate: Emulate, layer: str) -> None:
    network = LAYERS[layer]()
    check(emulate(network, Geometry(16, 32, 7, arithmetic="int8-pairs")), network)


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    geometry=st.sampled_from([SMALL, Geometry(8, 16, 3, wb=32), Geometry(16, 24, 5, wb=32), Geometry(32, 64, 7)]),
    images=st.integers(1, 2),
)
def test_random_networks(emulate: Emulate, seed: int, geometry: Geometry, images: int) -> None:
    rng = np.random.default_rng(seed)
    network = networks.random_network(rng, depth=int(rng.integers(1, 7)))
    executable = emulate(network, geometry, images=images, counters=True)
    check(executable, network, 2, seed)
    executable.close()


def test_float_images_in_onnx_layout_out(emulate: Emulate) -> None:
    network = head_net()
    check_float_images(emulate(network, SMALL), network)


@pytest.mark.slow
@pytest.mark.parametrize("planes", [1, 3])
def test_resnet18_at_full_size(emulate: Emulate, planes: int) -> None:
    network = networks.resnet((2, 2, 2, 2), 64, (224, 224, planes), bottleneck=False)
    check(emulate(network, counters=True, timeout=600.0), network)


@pytest.mark.slow
@pytest.mark.parametrize(("planes", "groups"), [(1, 1), (3, 1), (3, 32)], ids=["one plane", "three planes", "grouped"])
def test_resnet50_at_full_size(emulate: Emulate, planes: int, groups: int) -> None:
    network = networks.resnet(image=(224, 224, planes), groups=groups)
    check(emulate(network, counters=True, timeout=600.0), network)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_strict_depths_carry_resnet18(emulate: Emulate) -> None:
    network = networks.resnet((2, 2, 2, 2), 64, (32, 32, 1), bottleneck=False, classes=None)
    check(emulate(network, strict=True, timeout=1700.0), network)
