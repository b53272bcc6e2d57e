"""The RTL under Verilator equals the reference bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fpga_ops.commands.tables import read_network
from fpga_ops.errors import DeviceError
from fpga_ops.ir.network import IntegerNetwork
from fpga_ops.overlay import Geometry, OverlayExecutable, boards, plan
from fpga_ops.overlay.descriptor import Op
from fpga_ops.rtl import Memory, RtlExecutable
from tests.e2e.conftest import MODEL_REPOSITORY
from tests.fpga_ops.overlay.checks import check_bits, check_float_images
from tests.fpga_ops.overlay.test_exact import IMAGES, LAYERS, dense_net
from tests.fpga_ops.rtl.conftest import Simulate
from tests.support import networks
from triton_fpga_bench.overlay.simulated_cycles import compare

SMALL = Geometry(16, 16, 7)
HALVES = Geometry(  # vectors of two stored words, three result words, a narrow port
    16, 24, 5, wb=32, weight_tiles=64, joined_rows=True, resident_words=100, resident_blocks=5
)  # fmt: skip
STACKED = Geometry(32, 32, 3, joined_rows=True, stacked_rows=True)
STRICT = Memory(
    channels=2, latency=61, row_bytes=1024, row_miss=17, refresh_every=700, refresh_for=90, bytes_per_cycle=19.0,
    stall=0.3,
)  # fmt: skip
pytestmark = pytest.mark.timeout(600)  # the first use of a geometry builds its model


def check(executable: RtlExecutable, network: IntegerNetwork, count: int = 1, seed: int = 5) -> None:
    """Bits, and that every layer of every run was counted."""
    check_bits(executable, network, count, seed)
    runs = -(-count // executable.plan.images)
    assert len(executable.layers) == runs
    assert all(layer.cycles > 0 for run in executable.layers for layer in run)
    assert executable.checking_cycles + sum(x.cycles for run in executable.layers for x in run) <= executable.cycles


@pytest.mark.parametrize("layer", LAYERS)
def test_every_kind_of_layer(simulate: Simulate, layer: str) -> None:
    network = LAYERS[layer]()
    check(simulate(network, SMALL), network, 2)


@pytest.mark.parametrize("layer", LAYERS)
def test_slow_memory_that_stalls_at_random(simulate: Simulate, layer: str) -> None:
    """Every queue runs empty and full, requests are refused, rows miss, refreshes interrupt: no bit changes."""
    network = LAYERS[layer]()
    check(simulate(network, SMALL, memory=STRICT), network, 2)


@pytest.mark.parametrize("memory", [Memory(), STRICT], ids=["fast", "slow"])
@pytest.mark.parametrize("layer", LAYERS)
def test_vectors_of_several_words_in_joined_rows(simulate: Simulate, layer: str, memory: Memory) -> None:
    """Maps narrower than a group of pixels and wider ones; weights and constants partly on the chip."""
    network = LAYERS[layer]()
    check(simulate(network, HALVES, memory=memory), network, 2)


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("geometry", [SMALL, HALVES, STACKED], ids=["apart", "halves", "stacked"])
def test_raw_images_become_windows_on_the_device(simulate: Simulate, geometry: Geometry, image: str) -> None:
    """Three interleaved images, so that rows begin anywhere in a word."""
    shape, kernel, strides, pads = IMAGES[image]
    builder = networks.Builder(np.random.default_rng(3))
    network = builder.build(builder.conv(builder.input(*shape), 20, kernel, strides, pads))
    for memory in (Memory(), STRICT):
        check(simulate(network, geometry, images=3, max_batch=3, memory=memory), network, 3)


@pytest.mark.parametrize(
    ("image", "rows", "taps"),
    [
        ("7x7 on one plane", 4, 2),
        ("7x7 on three planes", 2, 4),
        ("3x3 on three planes", 3, 1),
        ("taller than wide", 4, 1),
    ],
)
def test_rows_of_a_window_are_stacked_where_a_vector_has_room(image: str, rows: int, taps: int) -> None:
    shape, kernel, strides, pads = IMAGES[image]
    builder = networks.Builder(np.random.default_rng(3))
    network = builder.build(builder.conv(builder.input(*shape), 20, kernel, strides, pads))
    apart, stacked = (plan(network, replace(STACKED, stacked_rows=flag)) for flag in (False, True))
    assert [d["stack"] for d in stacked.descriptors] == [rows, rows, 1]
    assert [p.descriptors[1]["acts"] for p in (apart, stacked)] == [kernel[0], taps]
    assert stacked.input_bytes == apart.input_bytes


@pytest.mark.parametrize("images", [1, 2, 3])
@pytest.mark.parametrize("geometry", [SMALL, HALVES, STACKED], ids=["apart", "joined", "stacked"])
def test_batches_and_interleaved_images(simulate: Simulate, images: int, geometry: Geometry) -> None:
    network = networks.resnet((1, 1), 16, (39, 25, 1), classes=10)
    executable = simulate(network, geometry, max_batch=5, images=images)
    for count in (1, 5, 2):  # a batch leaves nothing behind
        check(executable, network, count, seed=count)


def test_dense_layers_larger_than_the_weight_buffers(simulate: Simulate) -> None:
    network = dense_net()
    executable = simulate(network, HALVES, images=2)
    assert any(d["parts"] > 1 for d in executable.plan.descriptors)
    check(executable, network, 2)


@pytest.mark.parametrize("form", ["dsp48e2", "dsp58"])
def test_forms_of_the_products_change_no_bit(simulate: Simulate, form: str) -> None:
    geometry = Geometry(8, 16, 3, wb=32)
    for layer in ("3x3", "residual", "head"):
        network = LAYERS[layer]()
        check(simulate(network, geometry, form=form), network)
        check(simulate(network, geometry, form=form, memory=STRICT), network)


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    geometry=st.sampled_from([SMALL, HALVES, STACKED]),
    images=st.integers(1, 2),
    memory=st.sampled_from([Memory(), STRICT]),
)
def test_random_networks(simulate: Simulate, seed: int, geometry: Geometry, images: int, memory: Memory) -> None:
    rng = np.random.default_rng(seed)
    network = networks.random_network(rng, depth=int(rng.integers(1, 7)))
    executable = simulate(network, geometry, images=images, memory=memory)
    check(executable, network, 2, seed)
    executable.close()


def test_float_images_in_onnx_layout_out(simulate: Simulate) -> None:
    network = LAYERS["head"]()
    check_float_images(simulate(network, SMALL), network)


def test_joined_rows_take_fewer_groups_of_pixels() -> None:
    """Rows of 14 pixels in groups of 5: 40 groups for 14 rows of 3."""
    network = LAYERS["3x3"]()
    shape = network.tensors[network.steps[0].source].shape
    apart, joined = (plan(network, replace(HALVES, joined_rows=flag)) for flag in (False, True))
    groups = [next(d["rows"] * d["cols"] for d in p.descriptors if d.op is Op.CONV) for p in (apart, joined)]
    assert groups == [shape[0] * -(-shape[1] // 5), -(-shape[0] * shape[1] // 5)]
    assert max(joined.map_words) < max(apart.map_words)


def test_opencl_refuses_joined_rows() -> None:
    for geometry in (HALVES, replace(STACKED, joined_rows=False)):
        with pytest.raises(DeviceError, match="rows are joined in RTL alone"):
            OverlayExecutable(LAYERS["3x3"](), 1, geometry)


def shipped_tagger() -> IntegerNetwork:
    newest = max((MODEL_REPOSITORY / "top_tagger").glob("[0-9]*"), key=lambda path: int(path.name))
    return read_network(str(newest / "model.onnx"))


FULL_SIZE = {
    "resnet18": lambda: networks.resnet((2, 2, 2, 2), 64, (224, 224, 1), bottleneck=False),
    "resnet18-rgb": lambda: networks.resnet((2, 2, 2, 2), 64, (224, 224, 3), bottleneck=False),
    "tagger": shipped_tagger,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_on_the_u250s_array(name: str) -> None:
    """The board's geometry and memory: the reference's bits, and of every layer the model's cycles within 2%."""
    board = boards.load("u250")
    board = replace(board, geometry=replace(board.geometry, map_words=(4096, 4096)))  # one array for all
    compared = compare(FULL_SIZE[name](), board, board.clock_mhz)
    assert compared.equal
    assert [row for row in compared.rows if abs(row.simulated - row.modelled) > max(0.02 * row.modelled, 6)] == []
    convolutions = [row for row in compared.rows if row.op == "CONV"]
    assert [row for row in convolutions if row.waits["constants"]] == []  # they are on the chip, as the weights are
