"""Two tiny models in QDQ form with the contracts of the shipped ones, for tests through the real server."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

INPUTS = {"top_tagger": ("constituents", [200, 4]), "resnet50_top": ("images", [3, 224, 224])}
CONFIG = """backend: "fpga"
max_batch_size: {max_batch}
input [ {{ name: "{contract}" data_type: TYPE_FP32 dims: {shape} }} ]
output [ {{ name: "probabilities" data_type: TYPE_FP32 dims: [ 2 ] }} ]
parameters {{ key: "device" value {{ string_value: "{device}" }} }}
parameters {{ key: "contract" value {{ string_value: "{contract}" }} }}
"""


def write_repository(folder: Path, device: str = "reference", max_batch: int = 8) -> Path:
    """A model repository with `top_tagger` and `resnet50_top`."""
    for name, (contract, shape) in INPUTS.items():
        version = folder / name / "1"
        version.mkdir(parents=True)
        onnx.save(_model(name), version / "model.onnx")
        (folder / name / "config.pbtxt").write_text(
            CONFIG.format(max_batch=max_batch, device=device, contract=contract, shape=shape)
        )
        (folder / name / "labels.txt").write_text("qcd\ntop\n")
    return folder


def _model(name: str) -> onnx.ModelProto:
    contract, shape = INPUTS[name]
    rng = np.random.default_rng(1)
    weights: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []

    def constant(key: str, values: object, dtype: type = np.float32) -> str:
        weights.append(numpy_helper.from_array(np.asarray(values, dtype), key))
        return key

    def node(operator: str, inputs: list[str], output: str, **attributes: object) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], name=f"node_{output}", **attributes))
        return output

    def quantised(x: str, scale: float, zero: int) -> str:
        grid = [constant(f"{x}_scale", scale), constant(f"{x}_zero", zero, np.uint8)]
        return node("DequantizeLinear", [node("QuantizeLinear", [x, *grid], f"{x}_q"), *grid], f"{x}_dq")

    if name == "top_tagger":
        x = node("Transpose", [contract], "planes", perm=[0, 2, 1])
        x = node("Reshape", [x, constant("grid", [0, 4, 10, 20], np.int64)], "map")
        channels, scale, zero = 4, 2.0, 128
    else:
        x = node("AveragePool", [contract], "map", kernel_shape=[8, 8], strides=[8, 8])
        channels, scale, zero = 3, 1 / 255, 0
    x = quantised(x, scale, zero)
    filters = rng.integers(-127, 128, (16, channels, 3, 3)).astype(np.int8)
    filter_scale = np.full(16, 0.5 / 127, np.float32)
    names = [constant("w_scale", filter_scale), constant("w_zero", np.zeros(16), np.int8)]
    w = node("DequantizeLinear", [constant("w_q", filters, np.int8), *names], "w", axis=0)
    names = [constant("b_scale", filter_scale * np.float32(scale)), constant("b_zero", np.zeros(16), np.int32)]
    b = node("DequantizeLinear", [constant("b_q", rng.integers(-200, 200, 16), np.int32), *names], "b", axis=0)
    x = node("Conv", [x, w, b], "conv", kernel_shape=[3, 3], pads=[1] * 4)
    top = 2.0 * scale * 8
    x = quantised(node("Relu", [x], "relu"), top / 8, 0)
    x = quantised(node("GlobalAveragePool", [x], "features"), top / 16, 0)
    x = node("Flatten", [x], "flat")
    head = [constant("head", rng.normal(0, 0.02 / scale, (2, 16))), constant("head_bias", [0.1, -0.1])]
    x = node("Gemm", [x, *head], "logits", transB=1)
    node("Softmax", [x], "probabilities", axis=1)
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(contract, TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 2])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model
