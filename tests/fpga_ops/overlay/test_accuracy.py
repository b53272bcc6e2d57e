from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from fpga_ops.errors import InputError
from fpga_ops.ir import reference
from fpga_ops.overlay import Geometry, block_float
from tests.fpga_ops.onnx_models import quantise, resnet
from tests.support import networks
from triton_fpga_bench.overlay import block_float_accuracy
from triton_fpga_bench.overlay.block_float_accuracy import BlockFloatReference, Effect, area_under_curve


def test_area_under_curve():
    labels = np.array([False, False, True, True])
    assert area_under_curve(np.array([0.1, 0.2, 0.3, 0.4]), labels) == 1.0
    assert area_under_curve(np.array([0.4, 0.3, 0.2, 0.1]), labels) == 0.0
    assert area_under_curve(np.array([0.5, 0.5, 0.5, 0.5]), labels) == 0.5
    assert area_under_curve(np.array([0.1, 0.4, 0.3, 0.8]), labels) == 0.75


def test_summary_compares_decisions():
    labels = np.array([True, False, True, False])
    scores = {"int8": np.array([0.9, 0.1, 0.6, 0.4]), "bfp": np.array([0.8, 0.2, 0.4, 0.4])}
    summary = Effect(scores, labels).summary(resamples=50)
    assert summary["same_decision"] == 0.75
    assert summary["accuracy_int8"] == 1.0
    assert summary["accuracy_bfp"] == 0.75
    assert summary["largest_score_difference"] == pytest.approx(0.2)
    assert summary["auc_int8"] == 1.0
    assert summary["auc_int8_error"] == 0.0
    assert summary["auc_bfp_minus_int8_error"] == summary["auc_bfp_error"] > 0
    assert "auc_bfp" not in Effect(scores, None).summary()


def test_the_reference_is_an_executable_near_int8():
    network = networks.resnet((1, 1), 16, (32, 32, 1), classes=10)
    images = networks.random_images(network, 2, np.random.default_rng(1))
    exact = reference.ReferenceExecutable(network).run(images)
    rounded = BlockFloatReference(network, Geometry(arithmetic="bfp"))
    (name,) = network.outputs
    difference = np.abs(exact[name].astype(int) - rounded.run(images)[name].astype(int))
    assert rounded.folds
    assert exact[name].shape == (2, 10, 1, 1)
    assert 0 < difference.max() <= 24  # five-bit mantissas move a random network's outputs by a few steps
    rounded.close()


def test_rounding_of_blocks():
    weights = np.array([[31, -31, 5, 0], [32, 1, 0, 0], [-128, 127, 3, -3], [63, 2, 1, 0]], np.int8)
    mantissa, exponent = block_float.weight_blocks(weights)
    assert exponent[:, 0].tolist() == [0, 1, 3, 2]
    assert np.abs(mantissa).max() <= block_float.MANTISSA_MAX
    coded = block_float.encode(weights).view(np.uint8)
    assert (coded >> 6 == exponent).all()
    assert (((coded.astype(np.int16) & 63) ^ 32) - 32 == mantissa).all()
    values = np.array([[0, 31, 1, 2], [32, 33, 1, 255], [64, 2, 0, 100]], np.uint8)
    assert block_float.round_activations(values, 4).tolist() == [[0, 31, 1, 2], [32, 32, 0, 248], [64, 4, 0, 100]]


def test_the_command_compares_float_int8_and_block_floating_point(tmp_path: Path, monkeypatch, capsys):
    plain = resnet((1,), 16, (3, 32, 32), classes=2, softmax=True)
    onnx.save(plain, tmp_path / "float.onnx")
    model = quantise(plain, tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    images = rng.random((12, 3, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "items.npz", images=images, is_top=np.arange(12) % 2)
    arguments = [str(model), str(tmp_path / "items.npz"), "--label", "is_top", "--items", "10",
                 "--float", str(tmp_path / "float.onnx"), "--scores", str(tmp_path / "scores.npz")]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["accuracy", *arguments])
    block_float_accuracy.main()
    printed = capsys.readouterr().out
    summary = json.loads(printed[printed.index("{") :])  # after the progress bars
    assert summary["items"] == 10
    assert {"auc_float", "auc_int8", "auc_bfp", "auc_bfp_minus_int8_error"} <= summary.keys()
    with np.load(tmp_path / "scores.npz") as archive:
        assert set(archive) == {"float", "int8", "bfp", "labels"}
        np.testing.assert_allclose(archive["float"], archive["int8"], atol=0.2)
        np.testing.assert_allclose(archive["bfp"], archive["int8"], atol=0.2)
    monkeypatch.setattr(sys, "argv", ["accuracy", *arguments[:2], "--label", "is_bottom"])
    with pytest.raises(InputError, match="has no \\['is_bottom'\\]"):
        block_float_accuracy.main()
