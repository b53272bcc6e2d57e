"""Empirical bias correction of a quantised network.

Rounding shifts the mean of an output channel, and in jet images, where most pixels are empty and all alike, the shift
is the same nearly everywhere: it adds up from layer to layer instead of averaging out. Each convolution's bias is
therefore moved, front to back, so that the mean of each of its output channels is that of the float network (M. Nagel
et al., ICCV 2019, arXiv:1906.04721, section 4.2, with measured means).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, shape_inference, utils

from fpga_ops.runtime.exact_products import exact_session
from fpga_ops.runtime.onnxruntime_import import import_onnxruntime
from retrain.errors import DataError

INT32_MAX = 2**31 - 1


def correct_biases(
    quantised: onnx.ModelProto,
    plain: onnx.ModelProto,
    inputs: NDArray[np.float32],
    progress: Callable[[int], None] = lambda _: None,
) -> onnx.ModelProto:
    """A copy of a QDQ network whose convolutions have the channel means of the float network it was made from.

    `inputs` are network inputs float32[N, ...]; a few dozen jets do.

    Raises:
        DataError: No inputs.
    """
    if len(inputs) == 0:
        raise DataError("bias correction: expected at least one network input")
    corrected = onnx.ModelProto()
    corrected.CopyFrom(quantised)
    name = corrected.graph.input[0].name
    layers = [node for node in corrected.graph.node if node.op_type == "Conv" and len(node.input) == 3]
    wanted = _channel_means(plain, name, inputs, _float_outputs(plain, layers))
    initializers = {tensor.name: tensor for tensor in corrected.graph.initializer}
    producers = {output: node for node in corrected.graph.node for output in node.output}
    for layer, target in zip(layers, wanted, strict=True):
        own = _channel_means(corrected, name, inputs, [layer.output[0]])[0]
        bias = producers[layer.input[2]]
        steps = numpy_helper.to_array(initializers[bias.input[0]]).astype(np.float64)
        scale = numpy_helper.to_array(initializers[bias.input[1]]).astype(np.float64)
        moved = np.clip(np.rint(steps + (target - own) / scale), -INT32_MAX, INT32_MAX).astype(np.int32)
        initializers[bias.input[0]].CopyFrom(numpy_helper.from_array(moved, bias.input[0]))
        progress(1)
    return corrected


def _float_outputs(plain: onnx.ModelProto, layers: list[onnx.NodeProto]) -> list[str]:
    """Outputs of the same convolutions in the float network; the quantiser may rename one after the Relu it absorbs."""
    outputs = {node.name: node.output[0] for node in plain.graph.node}
    return [outputs[layer.name] for layer in layers]


def _channel_means(
    model: onnx.ModelProto, name: str, inputs: NDArray[np.float32], outputs: list[str]
) -> list[NDArray[np.float64]]:
    """Mean over images and pixels of each channel of tensors [N, C, H, W], computed by only the nodes they need."""
    onnxruntime = import_onnxruntime()

    part = utils.Extractor(shape_inference.infer_shapes(model)).extract_model([name], outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = exact_session(part, options)
    sums: list[Any] = [0.0] * len(outputs)
    for image in inputs:  # one at a time: all activations of a batch would not fit into memory
        values = session.run(outputs, {name: image[None]})
        sums = [total + value.mean(axis=(0, 2, 3), dtype=np.float64) for total, value in zip(sums, values, strict=True)]
    return [total / len(inputs) for total in sums]
