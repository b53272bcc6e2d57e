"""`triton-fpga bench networks`: the forms it makes, what it says of a file that is taken and of one that is not."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fpga_ops.inspection import judges
from tests.fpga_ops.onnx_models import FloatGraph, quantise, resnet
from triton_fpga_bench.networks import command, forms, pytorch, sources

SOURCE = sources.Source("torchvision", "resnet18")


def test_a_network_that_is_taken(tmp_path: Path) -> None:
    path = quantise(resnet(softmax=True), tmp_path / "m.onnx")
    outcome = command.examine(path, SOURCE, "cpu", 8)
    assert (outcome.steps, outcome.refused, outcome.same_bits) == (14, "", True)
    assert outcome.largest <= 1
    assert "Softmax" in outcome.elsewhere
    mean, spread = outcome.outputs[judges.OURS]
    assert abs(mean) < 0.1
    assert spread < 0.1
    assert judges.INT8 in outcome.outputs
    cells = command.row(outcome).strip("| ").split(" | ")
    assert len(cells) == len(command.HEADINGS)
    assert cells[:4] == ["resnet18 (torchvision)", "QDQ", "dynamic", "14"]


def test_a_network_that_is_refused(tmp_path: Path) -> None:
    g = FloatGraph((3, 32, 32))
    x = g.node("LeakyRelu", [g.conv("images", 8, 3)], alpha=0.1)
    path = quantise(g.model(g.head(g.relu(g.conv(x, 8, 3)), 4), ["batch", 4]), tmp_path / "m.onnx")
    line = command.row(command.examine(path, SOURCE, "reference", 1))
    assert "refused: LeakyRelu `node_leakyrelu3`: the operator is not supported" in line
    assert line.count(" | ") == len(command.HEADINGS) - 1


@pytest.mark.parametrize("form", forms.FORMS)
def test_forms(form: str, tmp_path: Path) -> None:
    """Each is what its name says, is taken, and has onnxruntime's integers."""
    onnx.save(resnet(opset=18), tmp_path / "float.onnx")
    path = tmp_path / "m.onnx"
    forms.quantise(tmp_path / "float.onnx", path, form, [sources.images(1, seed) for seed in range(1, 3)])
    model = onnx.load(path)
    operators = {node.op_type for node in model.graph.node}
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    of_maps = [node for node in nodes if node.input[0] not in stored]
    signed = {len(node.input) < 3 or stored[node.input[2]].dtype == np.int8 for node in of_maps}
    assert signed == {form in ("QDQ, int8", "TensorRT")}
    assert ("QLinearConv" in operators) == (form == "QOperator")
    assert ("Clip" in operators) == (form == "QCDQ")
    assert any(len(node.input) < 3 for node in nodes) == (form == "TensorRT")
    whole = all((np.log2(stored[node.input[1]]) % 1 == 0).all() for node in nodes)
    assert whole == (form == "powers of two")
    outcome = command.examine(path, SOURCE, "cpu", 8)
    assert (outcome.refused, outcome.same_bits) == ("", True)
    assert outcome.largest <= 1


def test_tools_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(ImportError, match="torchao"):
        pytorch.TOOLS["torchao, XNNPACK"]()
