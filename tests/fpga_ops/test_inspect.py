"""`triton-fpga inspect`."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest

from fpga_ops.commands import inspect
from fpga_ops.errors import InputError
from tests.fpga_ops.onnx_models import quantise, resnet, vgg


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return quantise(resnet(), tmp_path_factory.mktemp("model") / "model.onnx")


def run(*arguments):
    parser = argparse.ArgumentParser()
    inspect.register(parser)
    return inspect.run(parser.parse_args([str(argument) for argument in arguments]))


def test_tables(file, capsys):
    assert run(file) == 0
    printed = capsys.readouterr().out
    assert "onnxruntime" in printed
    assert "GOP per image" in printed
    assert "7x7 /2" in printed


def test_json(file, capsys):
    assert run(file, "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["inputs"] == {"images": {"dtype": "float32", "shape": [-1, 3, 32, 32]}}
    assert sum(step["operations"] for step in content["steps"]) == content["operations"] > 0
    assert [step["step"] for step in content["steps"]].count("MaxPool") == 1


def test_compare(file, tmp_path, capsys):
    images = np.random.default_rng(0).normal(0, 1, (2, 3, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "golden.npz", input=images)
    assert run(file, "--json", "--compare", tmp_path / "golden.npz") == 0
    found = json.loads(capsys.readouterr().out)
    assert all(row["differ"] <= 1e-4 and row["max"] <= 1 for row in found["tensors"])
    assert {"name", "differ", "max"} <= found["tensors"][0].keys()
    ours = found["answers"][0]
    assert found["logit_shift"] == {"mean": ours["mean"], "sd": ours["sd"]}
    assert (ours["rows"], ours["decisions"]) == (2, None)
    assert abs(ours["mean"]) < 0.01
    assert run(file, "--compare", tmp_path / "golden.npz") == 0
    assert "against onnxruntime" in capsys.readouterr().out


def test_logits_of_two_classes_are_compared(tmp_path, capsys):
    model = resnet(classes=2, softmax=True)
    path = quantise(model, tmp_path / "m.onnx", exclude=[node.name for node in model.graph.node[-2:]])
    np.savez(tmp_path / "x.npz", input=np.random.default_rng(0).normal(0, 1, (12, 3, 32, 32)).astype(np.float32))
    assert run(path, "--json", "--compare", tmp_path / "x.npz") == 0
    ours, kernels = json.loads(capsys.readouterr().out)["answers"][:2]
    assert (ours["rows"], ours["far"]) == (12, 0)
    assert abs(ours["mean"]) < 0.005
    assert ours["sd"] < 0.02
    assert kernels["name"] == "onnxruntime, int8 kernels"


def test_compare_refuses_other_arrays(file, tmp_path):
    np.savez(tmp_path / "other.npz", something=np.zeros(3))
    with pytest.raises(InputError, match="are not among them"):
        run(file, "--compare", tmp_path / "other.npz")
    (tmp_path / "no.npz").write_bytes(b"no")
    with pytest.raises(InputError, match="cannot read"):
        run(file, "--compare", tmp_path / "no.npz")


@pytest.mark.parametrize("build", [resnet, vgg])
def test_picture(build, tmp_path):
    path = quantise(build(), tmp_path / "m.onnx")
    assert run(path, "--picture", tmp_path / "partition.png") == 0
    assert (tmp_path / "partition.png").read_bytes().startswith(b"\x89PNG")
