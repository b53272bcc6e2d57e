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
    rows = json.loads(capsys.readouterr().out)["comparison"]
    assert all(row["forced"] <= 2 for row in rows)
    assert run(file, "--compare", tmp_path / "golden.npz") == 0
    assert "against onnxruntime" in capsys.readouterr().out


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
