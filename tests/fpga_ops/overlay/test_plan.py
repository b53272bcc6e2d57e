from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fpga_ops.errors import DeviceError, ModelError
from fpga_ops.overlay import DoesNotFitError, Geometry, packing, plan
from fpga_ops.overlay.descriptor import Op
from tests.support import networks


def ranges(d, which):
    memory = d["in_mem"] if which == "in" else d["out_mem"] if which == "out" else 1 - d["in_mem"]
    return memory, d[f"{which}_base"], d[f"{which}_base"] + d["images"] * d[f"{which}_step"]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3), st.sampled_from([(16, 16, 7), (8, 24, 3), (32, 64, 7), (16, 48, 5)]))
def test_no_live_map_is_overwritten(seed, images, shape):
    """Replays the program on an ownership map: every read finds the tensor that was written there."""
    network = networks.random_network(np.random.default_rng(seed), depth=5)
    planned = plan(network, Geometry(*shape, wb=8, weight_tiles=10**6), images)  # no layer is split
    owner: list[dict[int, str]] = [{}, {}]
    stages = {}
    for stage, d in zip(planned.lowered.stages, planned.descriptors, strict=True):
        stages[stage.output] = stage
        if d.op is not Op.LOAD:
            memory, first, last = ranges(d, "in")
            assert {owner[memory].get(word) for word in range(first, last)} == {stage.source}
        if d["add"]:
            memory, first, last = ranges(d, "skip")
            assert memory != d["in_mem"]
            assert {owner[memory].get(word) for word in range(first, last)} == {stage.residual}
        if d.op is not Op.STORE:
            memory, first, last = ranges(d, "out")
            assert last <= planned.map_words[memory]
            source = ranges(d, "in") if d.op is not Op.LOAD else (2, 0, 0)
            assert memory != source[0] or last <= source[1] or source[2] <= first
            owner[memory].update(dict.fromkeys(range(first, last), stage.output))


def test_too_small_a_map_memory_is_refused_with_the_numbers():
    network = networks.resnet((1, 1), 16, (32, 32, 3), classes=10)
    free = plan(network, Geometry(16, 16, 7))
    small = Geometry(16, 16, 7, map_words=(free.map_words[0] - 1, free.map_words[1] - 1))
    with pytest.raises(DoesNotFitError, match="bytes of feature-map memory") as caught:
        plan(network, small)
    error = caught.value
    assert f"{error.needed - error.available} too many" in str(error)
    assert plan(network, Geometry(16, 16, 7, map_words=free.map_words)).map_words == free.map_words


def test_too_deep_a_reduction_is_refused_unless_it_is_fully_connected():
    builder = networks.Builder(np.random.default_rng(0))
    x = builder.conv(builder.input(9, 9, 64), 16, (3, 3))
    with pytest.raises(DoesNotFitError, match="weight tiles of a lane group: 36 needed, 8 available, 28 too many"):
        plan(builder.build(builder.conv(x, 8, (6, 6))), Geometry(16, 16, 7, weight_tiles=8))
    builder = networks.Builder(np.random.default_rng(0))
    x = builder.max_pool(builder.input(9, 9, 64))
    planned = plan(builder.build(builder.dense(x, 40)), Geometry(16, 16, 7, weight_tiles=8))
    conv = next(d for d in planned.descriptors if d.op is Op.CONV)
    assert conv["parts"] == 13
    assert 12 * conv["part_acts"] + conv["last_acts"] == conv["acts"] == 100


def test_a_stride_that_meets_one_bank_is_refused_with_the_node():
    builder = networks.Builder(np.random.default_rng(0))
    x = builder.conv(builder.input(30, 30, 4), 8)
    network = builder.build(builder.conv(x, 8, (3, 3), (1, 7)))
    with pytest.raises(ModelError, match="stride of 7"):
        plan(network, Geometry(16, 16, 7))
    assert plan(network, Geometry(16, 16, 5)).descriptors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pix": 4}, "odd"),
        ({"pix": 17}, "beyond 15"),
        ({"accumulator_bits": 33}, "16 to 32 bits"),
        ({"resident_words": -1}, "positive"),
        ({"lane": 8}, "at least vec"),
        ({"vec": 0}, "positive"),
        ({"wb": 100}, "whole number"),
        ({"vec": 24, "lane": 32}, "power of two"),
        ({"arithmetic": "bfp"}, "arithmetic 'bfp' is none of int8, int8-pairs"),
    ],
)
def test_impossible_geometries_are_refused(change, message):
    with pytest.raises(DeviceError, match=message):
        Geometry(**{"vec": 16, "lane": 16, "pix": 7, **change})


def test_grouped_convolutions_read_only_their_channels():
    builder = networks.Builder(np.random.default_rng(0))
    x = builder.conv(builder.input(8, 8, 3), 128)
    network = builder.build(builder.conv(x, 128, (3, 3), pads=(1, 1, 1, 1), groups=32))
    conv = plan(network, Geometry(32, 64, 7)).descriptors[2]
    assert (conv["red_vecs"], conv["group_vecs"], conv["in_vecs"]) == (2, 2, 4)


def test_sums_and_multipliers_that_a_bitstream_is_too_narrow_for_are_refused():
    builder = networks.Builder(np.random.default_rng(0))
    network = builder.build(builder.conv(builder.input(9, 9, 64), 16, (3, 3), relu=False))
    assert plan(network, Geometry(16, 16, 7, accumulator_bits=27))
    with pytest.raises(DoesNotFitError, match=r"bits of an accumulator: 2[0-9] needed, 18 available"):
        plan(network, Geometry(16, 16, 7, accumulator_bits=18))
    with pytest.raises(DoesNotFitError, match="bits of a multiplier: 27 needed, 20 available"):
        plan(network, Geometry(16, 16, 7, multiplier_bits=20))


def test_what_the_kernels_count_in_16_bits_is_checked():
    builder = networks.Builder(np.random.default_rng(0))
    network = builder.build(builder.max_pool(builder.input(2, 70000, 1), (1, 1), (1, 1), (0, 0, 0, 0)))
    with pytest.raises(DoesNotFitError, match="descriptor field cols: 70000 needed, 65535 available"):
        plan(network, Geometry(16, 16, 1))


def test_an_image_goes_over_as_its_own_bytes():
    """A 224x224 plane is 50,176 bytes, not the 838,656 of its windows."""
    network = networks.resnet((1,), 8, (224, 224, 1), classes=None)
    planned = plan(network, Geometry(32, 64, 9))
    load = planned.descriptors[0]
    assert planned.input_bytes == 224 * 224
    assert (load["row_bytes"], load["byte_step"], load["byte_taps"], load["byte_pad"]) == (224, 2, 7, 3)
    x = np.arange(224 * 224, dtype=np.uint32).astype(np.uint8).reshape(1, 224, 224, 1)
    assert packing.inputs(planned, {"image": x}).tobytes() == x.tobytes()
