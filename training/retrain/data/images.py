"""Jet images, in one implementation: an ONNX graph that training runs and that the served file contains.

A jet's constituents are centred on their pT-weighted centroid, optionally rotated so that the principal axis is
vertical and flipped so that the harder half is to the right and at the top (S. Macaluso and D. Shih, JHEP 10 (2018)
121, arXiv:1803.00107), then summed into pixels as fractions of the jet's pT, all before pixelation. The original
service used the same 224 x 224 pixels of pT fractions (J. Duarte et al., arXiv:1904.08986).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fpga_ops.runtime.onnxruntime_import import import_onnxruntime
from retrain.data.jet_table import MAX_CONSTITUENTS
from retrain.errors import DataError

OPSET = 18
IR_VERSION = 9  # the newest that onnxruntime 1.17 reads
CONSTITUENTS = "constituents"
IMAGE = "image"
NETWORK_INPUT = "network_input"
SMALLEST_PT = 1e-6  # GeV; keeps padding out of divisions


@dataclass(frozen=True)
class ImageSettings:
    """Pixels along an edge, half the window's width in eta and phi, and the normalisations before pixelation.

    The network sees sums over `reduce` x `reduce` pixels: 224 pixels along 1.6 are finer than any calorimeter cell.
    """

    size: int = 224
    half_width: float = 0.8
    rotate: bool = True
    flip: bool = True
    reduce: int = 1

    def __post_init__(self) -> None:
        if self.reduce < 1 or self.size % self.reduce:
            raise DataError(f"reduce: expected a divisor of the image size {self.size}, got {self.reduce}")
        if self.size < 1:
            raise DataError(f"image size: expected at least 1 pixel, got {self.size}")
        if not 0.0 < self.half_width < np.pi / 2:
            raise DataError(f"image half width: expected above 0 and below pi/2, got {self.half_width}")


def image_settings(record: Mapping[str, Any]) -> ImageSettings:
    """The settings from plain values, as a model card or `quantisation.json` holds them.

    Raises:
        DataError: One is missing or makes no sense.
    """
    try:
        return ImageSettings(**{field.name: record[field.name] for field in fields(ImageSettings)})
    except KeyError as error:
        raise DataError(f"image settings: {error} is missing") from error


class GraphBuilder:
    """Collects ONNX nodes; each call of `add` returns the name of the node's output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Append a node."""
        name = output or f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=f"image/{name}", **attributes))
        return name

    def add_many(self, operator: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """Append a node of several outputs."""
        names = [f"{operator}_{len(self.nodes)}_{index}" for index in range(count)]
        self.nodes.append(helper.make_node(operator, inputs, names, name=f"image/{names[0]}", **attributes))
        return names

    def constant(self, value: Any, dtype: type[np.generic] = np.float32) -> str:
        """A constant, given as number or nested list."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def sum_over_constituents(self, values: str) -> str:
        """[N, 200] to [N, 1]."""
        return self.add("ReduceSum", values, self.constant([1], np.int64), keepdims=1)

    def model(self, name: str, inputs: list[Any], outputs: list[Any]) -> onnx.ModelProto:
        """The nodes as a checked model."""
        graph = helper.make_graph(self.nodes, name, inputs, outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        return model


def network_input(graph: GraphBuilder, image: str, settings: ImageSettings) -> None:
    """What the network sees: the square root of the pT fraction, which keeps soft constituents above one 8-bit step.

    A constituent of 1 GeV in a 600 GeV jet is 0.4 steps of 1/255 as a fraction, and 10 steps as a square root.
    """
    if settings.reduce > 1:
        window = [settings.reduce, settings.reduce]
        mean = graph.add("AveragePool", image, kernel_shape=window, strides=window)
        image = graph.add("Mul", mean, graph.constant(settings.reduce**2))
    graph.add("Sqrt", image, output=NETWORK_INPUT)


def image_graph(settings: ImageSettings, transformed: bool = False) -> onnx.ModelProto:
    """The graph `constituents` FP32[N, 200, 4] (E, px, py, pz; GeV) -> `image` FP32[N, 1, size, size] (sum 1).

    With `transformed` its output is `network_input` instead, the image as the network sees it. Rows are phi and
    columns eta (before rotation); row 0 is the lowest phi. Every operation works on one jet, so a jet's image does
    not depend on the batch it comes in.
    """
    graph = GraphBuilder()
    output = NETWORK_INPUT if transformed else IMAGE
    inputs = [helper.make_tensor_value_info(CONSTITUENTS, TensorProto.FLOAT, ["N", MAX_CONSTITUENTS, 4])]
    size = settings.size // settings.reduce if transformed else settings.size
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", 1, size, size])]
    pt, x, y, valid = _centred_coordinates(graph)
    if settings.rotate:
        x, y = _rotated(graph, pt, x, y)
    if settings.flip:
        x, y = _flipped(graph, pt, x), _flipped(graph, pt, y)
    _pixelated(graph, settings, pt, x, y, valid)
    if transformed:
        network_input(graph, IMAGE, settings)
    return graph.model("jet_image", inputs, outputs)


def _centred_coordinates(graph: GraphBuilder) -> tuple[str, str, str, str]:
    """Transverse momentum (0 for padding), eta and phi around the centroid, and which constituents are real."""
    _, px, py, pz = (graph.add("Gather", CONSTITUENTS, graph.constant(i, np.int64), axis=2) for i in range(4))
    raw_pt = graph.add("Sqrt", graph.add("Add", graph.add("Mul", px, px), graph.add("Mul", py, py)))
    valid = graph.add("Greater", raw_pt, graph.constant(SMALLEST_PT))
    pt = graph.add("Where", valid, raw_pt, graph.constant(0.0))
    safe_pt = graph.add("Where", valid, raw_pt, graph.constant(1.0))
    eta = graph.add("Asinh", graph.add("Div", pz, safe_pt))
    # Azimuth from the jet's transverse direction: no wrap, and ONNX has no atan2. Constituents of the opposite
    # half-plane lie outside any window narrower than pi.
    jet_x, jet_y = graph.sum_over_constituents(px), graph.sum_over_constituents(py)
    along = graph.add("Add", graph.add("Mul", px, jet_x), graph.add("Mul", py, jet_y))
    across = graph.add("Sub", graph.add("Mul", py, jet_x), graph.add("Mul", px, jet_y))
    ahead = graph.add("Greater", along, graph.constant(0.0))
    valid = graph.add("And", valid, ahead)
    phi = graph.add("Atan", graph.add("Div", across, graph.add("Where", ahead, along, graph.constant(1.0))))
    pt = graph.add("Where", valid, pt, graph.constant(0.0))
    return pt, _minus_mean(graph, pt, eta), _minus_mean(graph, pt, phi), valid


def _minus_mean(graph: GraphBuilder, pt: str, values: str) -> str:
    total = graph.add("Max", graph.sum_over_constituents(pt), graph.constant(SMALLEST_PT))
    mean = graph.add("Div", graph.sum_over_constituents(graph.add("Mul", pt, values)), total)
    return graph.add("Sub", values, mean)


def _rotated(graph: GraphBuilder, pt: str, x: str, y: str) -> tuple[str, str]:
    """Turn the principal axis of the pT distribution onto y; its half angle comes from the tensor's 2x2 invariants."""

    def moment(a: str, b: str) -> str:
        return graph.sum_over_constituents(graph.add("Mul", pt, graph.add("Mul", a, b)))

    one, half, zero = graph.constant(1.0), graph.constant(0.5), graph.constant(0.0)
    difference = graph.add("Sub", moment(x, x), moment(y, y))
    mixed = moment(x, y)
    doubled = graph.add("Add", mixed, mixed)
    squares = graph.add("Mul", difference, difference), graph.add("Mul", doubled, doubled)
    length = graph.add("Sqrt", graph.add("Add", *squares))
    round_jet = graph.add("LessOrEqual", length, graph.constant(1e-12))
    cosine_twice = graph.add("Div", difference, graph.add("Where", round_jet, one, length))

    def half_angle(sign: str) -> str:
        square = graph.add("Mul", half, graph.add(sign, one, cosine_twice))
        return graph.add("Sqrt", graph.add("Max", square, zero))

    cosine = half_angle("Add")
    negative = graph.add("Less", mixed, zero)
    sine = half_angle("Sub")
    sine = graph.add("Where", negative, graph.add("Neg", sine), sine)
    along = graph.add("Add", graph.add("Mul", x, cosine), graph.add("Mul", y, sine))
    across = graph.add("Sub", graph.add("Mul", x, sine), graph.add("Mul", y, cosine))
    return across, along


def _flipped(graph: GraphBuilder, pt: str, values: str) -> str:
    """Mirror one coordinate so that its positive side has the larger pT sum."""
    balance = graph.sum_over_constituents(graph.add("Mul", pt, graph.add("Sign", values)))
    negative = graph.add("Less", balance, graph.constant(0.0))
    return graph.add("Where", negative, graph.add("Neg", values), values)


def _pixelated(graph: GraphBuilder, settings: ImageSettings, pt: str, x: str, y: str, valid: str) -> None:
    pixels = graph.constant(settings.size, np.int64)
    zero = graph.constant(0, np.int64)

    def pixel(values: str) -> str:
        shifted = graph.add("Add", values, graph.constant(settings.half_width))
        scaled = graph.add("Mul", shifted, graph.constant(settings.size / (2.0 * settings.half_width)))
        return graph.add("Cast", graph.add("Floor", scaled), to=TensorProto.INT64)

    column, row = pixel(x), pixel(y)
    inside = valid
    for index in (column, row):
        inside = graph.add("And", inside, graph.add("GreaterOrEqual", index, zero))
        inside = graph.add("And", inside, graph.add("Less", index, pixels))
    flat = graph.add("Add", graph.add("Mul", row, pixels), column)
    flat = graph.add("Where", inside, flat, zero)
    seen = graph.add("Where", inside, pt, graph.constant(0.0))
    total = graph.add("Max", graph.sum_over_constituents(seen), graph.constant(SMALLEST_PT))
    fraction = graph.add("Div", seen, total)
    batch = graph.add("Shape", CONSTITUENTS, start=0, end=1)
    plane = graph.add("Concat", batch, graph.constant([settings.size**2], np.int64), axis=0)
    empty = graph.add("ConstantOfShape", plane, value=numpy_helper.from_array(np.zeros(1, np.float32)))
    filled = graph.add("ScatterElements", empty, flat, fraction, axis=1, reduction="add")
    shape = graph.constant([-1, 1, settings.size, settings.size], np.int64)
    graph.add("Reshape", filled, shape, output=IMAGE)


class JetImager:
    """Runs the image graph with onnxruntime on the CPU."""

    def __init__(self, settings: ImageSettings | None = None, transformed: bool = False, threads: int = 1) -> None:
        self.settings = settings or ImageSettings()
        self._output = NETWORK_INPUT if transformed else IMAGE
        self._threads = threads

    @cached_property
    def _session(self) -> Any:
        onnxruntime = import_onnxruntime()

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        graph = image_graph(self.settings, self._output == NETWORK_INPUT).SerializeToString()
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def __call__(self, constituents: NDArray[np.float32]) -> NDArray[np.float32]:
        """Images (or network inputs) float32[N, 1, size, size] of constituents float32[N, 200, 4].

        Raises DataError for a masked array that hides values, which would be used.
        """
        if isinstance(constituents, np.ma.MaskedArray) and np.any(constituents.mask):
            raise DataError("constituents: expected an array without masked values; leave the masked jets out")
        images: NDArray[np.float32] = self._session.run([self._output], {CONSTITUENTS: constituents})[0]
        return images
