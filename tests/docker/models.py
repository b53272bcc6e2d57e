"""A repository of small networks under the names, contracts and configurations of the shipped ones: light replicas."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx

from retrain.data.images import NETWORK_INPUT, OPSET, ImageSettings, JetImager
from retrain.publishing.versions import write_version
from retrain.quantisation.export import with_constituents, with_images
from retrain.quantisation.quantise import quantise
from tests.docker.traffic import constituents
from tests.fpga_ops.onnx_models import resnet

SHIPPED = Path(__file__).resolve().parents[2] / "model_repository"
MODELS = ("resnet50_top", "top_tagger")
IMAGE = ImageSettings(size=224)
CALIBRATION = 16


def small_network(seed: int = 0) -> onnx.ModelProto:
    """One residual block of 8 channels on the shipped networks' image, quantised: under a millisecond on a CPU."""
    network = resnet((1,), 8, (1, IMAGE.size, IMAGE.size), classes=2, softmax=True, seed=seed, opset=OPSET)
    names = {network.graph.input[0].name: NETWORK_INPUT, network.graph.output[0].name: "probabilities"}
    for node in network.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*network.graph.input, *network.graph.output):
        value.name = names[value.name]
    network.ir_version = 9
    images = JetImager(IMAGE, transformed=True)(constituents(CALIBRATION, seed=3))
    return quantise(network, [images[:8], images[8:]], input_range=(0.0, 1.0))


def small_repository(folder: Path) -> Path:
    """Version 1 of both models, with the shipped configurations and warm-up data. Readable by every user."""
    network, jets = small_network(), constituents(3, seed=4)
    images = np.repeat(JetImager(IMAGE)(jets), 3, axis=1)
    served = {"resnet50_top": (with_images, images), "top_tagger": (with_constituents, jets)}
    for model, (contract, golden_input) in served.items():
        write_version(folder, model, contract(network, IMAGE), golden_input, {"metrics": {}})
        for name in ("config.pbtxt", "labels.txt"):
            shutil.copyfile(SHIPPED / model / name, folder / model / name)
        shutil.copytree(SHIPPED / model / "warmup", folder / model / "warmup", copy_function=shutil.copyfile)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder
