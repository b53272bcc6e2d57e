"""`triton-fpga bench networks`: what it says of a file that is taken and of one that is not."""

from __future__ import annotations

from pathlib import Path

from tests.fpga_ops.onnx_models import FloatGraph, quantise, resnet
from triton_fpga_bench.networks import command, sources

SOURCE = sources.Source("torchvision", "resnet18")


def test_a_network_that_is_taken(tmp_path: Path) -> None:
    path = quantise(resnet(softmax=True), tmp_path / "m.onnx")
    outcome = command.examine(path, SOURCE, "cpu")
    assert (outcome.steps, outcome.refused, outcome.same_bits) == (14, "", True)
    assert outcome.largest <= 1
    assert "Softmax" in outcome.elsewhere
    cells = command.row(outcome).split(" | ")
    assert len(cells) == len(command.HEADINGS)
    assert cells[:4] == ["| resnet18 (torchvision)", "QDQ", "dynamic", "14"]


def test_a_network_that_is_refused(tmp_path: Path) -> None:
    g = FloatGraph((3, 32, 32))
    x = g.node("LeakyRelu", [g.conv("images", 8, 3)], alpha=0.1)
    path = quantise(g.model(g.head(g.relu(g.conv(x, 8, 3)), 4), ["batch", 4]), tmp_path / "m.onnx")
    line = command.row(command.examine(path, SOURCE, "reference"))
    assert "refused: LeakyRelu: the operator is not supported" in line
    assert line.count(" | ") == len(command.HEADINGS) - 1
