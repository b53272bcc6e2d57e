"""The RTL under Verilator equals the reference bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fpga_ops.ir.network import IntegerNetwork
from fpga_ops.overlay import Geometry
from fpga_ops.rtl import Memory, RtlExecutable
from tests.fpga_ops.overlay.checks import check_bits, check_float_images
from tests.fpga_ops.overlay.test_exact import LAYERS, dense_net
from tests.fpga_ops.rtl.conftest import Simulate
from tests.support import networks

SMALL = Geometry(16, 16, 7)
HALVES = Geometry(16, 24, 5, wb=32, weight_tiles=64)  # vectors of two stored words, three result words, a narrow port
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
@pytest.mark.parametrize("layer", ["3x3", "uneven", "odd groups", "residual", "pool", "head", "add"])
def test_vectors_of_several_words(simulate: Simulate, layer: str, memory: Memory) -> None:
    network = LAYERS[layer]()
    check(simulate(network, HALVES, memory=memory), network, 2)


@pytest.mark.parametrize("images", [1, 2, 3])
def test_batches_and_interleaved_images(simulate: Simulate, images: int) -> None:
    network = networks.resnet((1, 1), 16, (32, 32, 1), classes=10)
    executable = simulate(network, SMALL, max_batch=5, images=images)
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
    geometry=st.sampled_from([SMALL, HALVES]),
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


@pytest.mark.slow
@pytest.mark.parametrize("planes", [1, 3])
def test_resnet18_at_full_size(simulate: Simulate, planes: int) -> None:
    network = networks.resnet((2, 2, 2, 2), 64, (224, 224, planes), bottleneck=False)
    check(simulate(network), network)
