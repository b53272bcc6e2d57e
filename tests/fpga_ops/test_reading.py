"""Hostile and broken ONNX files: a typed error that says what is wrong, and nothing big allocated."""

from __future__ import annotations

import os
import resource

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fpga_ops.errors import ModelError
from fpga_ops.importer import import_model
from fpga_ops.importer.graph import make_graph
from fpga_ops.importer.onnx_reader import read_model
from tests.fpga_ops.onnx_models import quantise, resnet


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return quantise(resnet((1,), 8), tmp_path_factory.mktemp("good") / "model.onnx")


def refused(path, match):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match=match):
        import_model(path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 300 * 1024  # KiB


def test_missing_empty_and_folders(tmp_path):
    refused(tmp_path / "none.onnx", "cannot read")
    (tmp_path / "empty.onnx").touch()
    refused(tmp_path / "empty.onnx", "is empty")
    refused(tmp_path, "not a regular file")
    refused("nul\0byte.onnx", "cannot read")


def test_enormous_sparse_file_is_not_read(tmp_path):
    with (tmp_path / "huge.onnx").open("wb") as file:
        os.truncate(file.fileno(), 2**33)
    refused(tmp_path / "huge.onnx", "at most")


@pytest.mark.parametrize("share", [0.001, 0.02, 0.3, 0.7, 0.95, 0.9999])
def test_truncated(good, share, tmp_path):
    content = good.read_bytes()
    (tmp_path / "cut.onnx").write_bytes(content[: int(len(content) * share)])
    refused(tmp_path / "cut.onnx", ".")


def test_noise(tmp_path):
    rng = np.random.default_rng(0)
    for length in (1, 10, 1000, 100_000):
        (tmp_path / "noise.onnx").write_bytes(rng.bytes(length))
        refused(tmp_path / "noise.onnx", ".")


def test_flipped_bytes_never_do_worse_than_a_typed_error(good, tmp_path):
    content = bytearray(good.read_bytes())
    rng = np.random.default_rng(1)
    outcomes = set()
    for position in rng.integers(0, len(content), 150):
        changed = bytearray(content)
        changed[position] ^= int(rng.integers(1, 256))
        (tmp_path / "flipped.onnx").write_bytes(changed)
        try:
            import_model(tmp_path / "flipped.onnx")
            outcomes.add("imported")  # a weight, or a name
        except ModelError:
            outcomes.add("refused")
    assert outcomes == {"imported", "refused"}


def edited(good, tmp_path, change):
    model = onnx.load(good)
    change(model)
    onnx.save(model, tmp_path / "edited.onnx")
    return tmp_path / "edited.onnx"


def test_cycle(good, tmp_path):
    def change(model):
        relu = next(node for node in model.graph.node if node.op_type == "Add")
        relu.input[0] = model.graph.output[0].name

    refused(edited(good, tmp_path, change), "cycle")


def test_shuffled_nodes_are_put_in_order(good):
    model = onnx.load(good)
    straight = [node.name for node in make_graph(model).nodes]
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert sorted(node.name for node in make_graph(model).nodes) == sorted(straight)


def test_unknown_and_doubled_tensors(good, tmp_path):
    def unknown(model):
        model.graph.node[3].input[0] = "nobody"

    def doubled(model):
        model.graph.node[3].output[0] = model.graph.node[2].output[0]

    def lost_output(model):
        model.graph.output[0].name = "nobody"

    refused(edited(good, tmp_path, unknown), "made by no node")
    refused(edited(good, tmp_path, doubled), "made twice")
    refused(edited(good, tmp_path, lost_output), "made by no node")


@pytest.mark.parametrize("dims", [[2**40, 2**20], [2**31, 4], [-1, 8], [10**6, 10**6]])
def test_absurd_weights(good, dims, tmp_path):
    def change(model):
        tensor = model.graph.initializer[0]
        del tensor.dims[:]
        tensor.dims.extend(dims)

    refused(edited(good, tmp_path, change), "weights '.*' ")


def test_weights_that_do_not_fill_their_shape(good, tmp_path):
    def change(model):
        tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
        tensor.dims[0] += 1

    refused(edited(good, tmp_path, change), "need .* bytes, the file has")


@pytest.mark.parametrize("size", [2**20, 2**40, 2**62])
def test_absurd_images(good, size, tmp_path):
    def change(model):
        for axis in (2, 3):
            model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size

    refused(edited(good, tmp_path, change), "absurd shape")


def test_large_images_are_refused_before_they_are_made(good, tmp_path):
    def change(model):
        for axis in (2, 3):
            model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 20_000

    refused(edited(good, tmp_path, change), "beyond")


def external(tensor, **entries):
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))


OUTSIDE = ["../secret.bin", "/etc/passwd", "sub/../../secret.bin", "link.bin", "", "missing.bin", "x\0y"]


@pytest.mark.parametrize("location", OUTSIDE)
def test_external_data_outside_the_folder(good, location, tmp_path):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(bytes(10_000))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")

    model = onnx.load(good)
    external(next(t for t in model.graph.initializer if len(t.dims) == 4), location=location)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    refused(folder / "model.onnx", "outside the model's folder|not there|bad reference")


@pytest.mark.parametrize(("offset", "length"), [(0, 10**12), (-5, None), (10**9, None), (0, 3), ("x", None)])
def test_external_data_outside_its_file(good, offset, length, tmp_path):
    (tmp_path / "data.bin").write_bytes(bytes(10_000))
    model = onnx.load(good)
    entries = {"location": "data.bin", "offset": offset} | ({} if length is None else {"length": length})
    external(next(t for t in model.graph.initializer if len(t.dims) == 4), **entries)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    refused(tmp_path / "model.onnx", "bytes|bad reference")


def test_external_data_through_links(good, tmp_path):
    """A store of blobs: name and data are links; a link to the file alone: its data lies beside the file."""
    for folder in ("blobs", "snapshot", "alone"):
        (tmp_path / folder).mkdir()
    path = tmp_path / "blobs" / "model.onnx"
    onnx.save(onnx.load(good), path, save_as_external_data=True, size_threshold=16, location="w.bin")
    (tmp_path / "alone" / "model.onnx").symlink_to(path)
    alone = read_model(tmp_path / "alone" / "model.onnx")
    path.rename(tmp_path / "blobs" / "1f")
    (tmp_path / "blobs" / "w.bin").rename(tmp_path / "blobs" / "2e")
    (tmp_path / "snapshot" / "model.onnx").symlink_to("../blobs/1f")
    (tmp_path / "snapshot" / "w.bin").symlink_to("../blobs/2e")
    for model in (alone, read_model(tmp_path / "snapshot" / "model.onnx")):
        for tensor, expected in zip(model.graph.initializer, onnx.load(good).graph.initializer, strict=True):
            np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), onnx.numpy_helper.to_array(expected))
    (tmp_path / "snapshot" / "w.bin").unlink()
    (tmp_path / "secret").write_bytes(b"0" * 10**6)
    (tmp_path / "snapshot" / "w.bin").symlink_to("../secret")
    with pytest.raises(ModelError, match="which is not there"):
        read_model(tmp_path / "snapshot" / "model.onnx")


def test_external_data_in_the_folder_is_read(good, tmp_path):
    onnx.save(onnx.load(good), tmp_path / "model.onnx", save_as_external_data=True, size_threshold=16, location="w.bin")
    assert (tmp_path / "w.bin").stat().st_size > 100
    inside, outside = read_model(good), read_model(tmp_path / "model.onnx")
    for one, other in zip(inside.graph.initializer, outside.graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(one), numpy_helper.to_array(other))
    import_model(tmp_path / "model.onnx")


def test_other_headers(good, tmp_path):
    def old(model):
        model.opset_import[0].version = 12

    def none(model):
        del model.opset_import[:]

    def domain(model):
        model.graph.node[4].domain = "org.example.custom"

    def functions(model):
        model.functions.append(helper.make_function("d", "f", ["a"], ["b"], [], []))

    refused(edited(good, tmp_path, old), "opset 12; 13 or later")
    refused(edited(good, tmp_path, none), "which opset")
    refused(edited(good, tmp_path, domain), "org.example.custom")
    refused(edited(good, tmp_path, functions), "inline them")


def test_attribute_tensor_stored_outside(good, tmp_path):
    def change(model):
        tensor = numpy_helper.from_array(np.ones(3, np.float32), "t")
        node = helper.make_node("Constant", [], ["unused"], value=tensor)
        external(node.attribute[0].t, location="/etc/passwd")
        model.graph.node.append(node)

    model = onnx.load(good)
    change(model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    refused(tmp_path / "m.onnx", "outside the file")
