"""Neutrino pixel maps in memory, and what the network sees of them.

A map holds the charge in every cell of a window of a segmented tracking calorimeter: two views (x-z and y-z) of 100
planes of 80 cells, as in A. Aurisano et al., JINST 11 (2016) P09001, arXiv:1604.01444. The original service put the
views side by side and gave them to the ResNet50 that tags jets (J. Duarte et al., arXiv:1904.08986).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from fpga_ops.runtime.onnxruntime_import import import_onnxruntime
from retrain.data.images import NETWORK_INPUT, GraphBuilder
from retrain.data.jet_table import arrays_digest
from retrain.errors import DataError

CLASSES = ("numu_cc", "nue_cc", "nutau_cc", "nc", "cosmic")
VIEWS, PLANES, CELLS = 2, 100, 80
LARGEST_CHARGE = 255
PIXEL_MAPS = "pixel_maps"


@dataclass(frozen=True)
class PixelMaps:
    """Labelled maps: charge uint8[N, 2, 100, 80], label int64[N] (place in `CLASSES`), energy float32[N] (GeV).

    The energy is the neutrino's; that of a cosmic muon is 0.
    """

    charge: NDArray[np.uint8]
    label: NDArray[np.int64]
    energy: NDArray[np.float32]

    def __post_init__(self) -> None:
        shape = self.charge.shape
        if len(shape) != 4 or shape[1:] != (VIEWS, PLANES, CELLS):
            raise DataError(f"charge: expected [N, {VIEWS}, {PLANES}, {CELLS}], got {list(shape)}")
        if self.charge.dtype != np.uint8:
            raise DataError(f"charge: expected uint8, got {self.charge.dtype}")
        for field in fields(self):
            values = getattr(self, field.name)
            if isinstance(values, np.ma.MaskedArray) and np.any(values.mask):
                raise DataError(f"{field.name}: expected no masked values; leave those maps out")
            if len(values) != shape[0]:
                raise DataError(f"{field.name}: {len(values)} entries for {shape[0]} maps")
        if shape[0] and not (self.label.min() >= 0 and self.label.max() < len(CLASSES)):
            raise DataError(f"label: expected 0 to {len(CLASSES) - 1}, got {self.label.min()} to {self.label.max()}")
        if not np.all(np.isfinite(self.energy)):
            raise DataError("energy: contains NaN or infinite values")

    def __len__(self) -> int:
        return len(self.label)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return CLASSES

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of each map, int64[N]."""
        return self.label

    def take(self, index: NDArray[np.int64] | slice) -> PixelMaps:
        """The maps of `index`, int64[n] or a slice, in its order."""
        return PixelMaps(*(getattr(self, field.name)[index] for field in fields(self)))

    def inputs(self, size: int) -> NDArray[np.float32]:
        """What a network sees that looks at `size` rows of the 100 planes: float32[N, 1, size, 160 size / 100]."""
        return network_inputs(self.charge, reduction(size))

    def digest(self) -> str:
        """The hexadecimal SHA-256 of charges and labels."""
        return arrays_digest(self.charge, self.label)

    def require_all_classes(self) -> PixelMaps:
        """These maps, or DataError when one class or more is missing."""
        missing = [name for index, name in enumerate(CLASSES) if not np.any(self.label == index)]
        if missing:
            raise DataError(
                f"{len(self)} pixel maps without {', '.join(missing)}; all of {', '.join(CLASSES)} are needed"
            )
        return self


def concatenate_maps(parts: Sequence[PixelMaps]) -> PixelMaps:
    """Several sets of maps as one; DataError when there is none."""
    if not parts:
        raise DataError("no pixel maps at all; expected at least one file of them")
    return PixelMaps(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(PixelMaps)))


def reduction(size: int) -> int:
    """By how many cells squared a map is summed to have `size` rows."""
    if size < 1 or PLANES % size or CELLS % (PLANES // size):
        raise DataError(f"size of a pixel map: expected 100, 50, 25, 20 or 10 rows, got {size}")
    return PLANES // size


def pixel_map_graph(size: int) -> onnx.ModelProto:
    """The graph `pixel_maps` FP32[N, 2, 100, 80] (0 to 255) -> `network_input` FP32[N, 1, size, 160 size / 100].

    The views stand side by side; the network sees the square root of the mean charge of the cells that make a pixel,
    so that the ends of tracks stay above one 8-bit step beside the cores of showers.
    """
    reduce = reduction(size)
    graph = GraphBuilder()
    first, second = (
        graph.add("Slice", PIXEL_MAPS, *(graph.constant([value], np.int64) for value in (view, view + 1, 1)))
        for view in range(VIEWS)
    )
    image = graph.add("Concat", first, second, axis=3)
    if reduce > 1:
        image = graph.add("AveragePool", image, kernel_shape=[reduce, reduce], strides=[reduce, reduce])
    graph.add("Sqrt", graph.add("Mul", image, graph.constant(1.0 / LARGEST_CHARGE)), output=NETWORK_INPUT)
    shape: list[str | int | None] = ["N", 1, PLANES // reduce, VIEWS * CELLS // reduce]
    return graph.model(
        "pixel_map",
        [helper.make_tensor_value_info(PIXEL_MAPS, TensorProto.FLOAT, ["N", VIEWS, PLANES, CELLS])],
        [helper.make_tensor_value_info(NETWORK_INPUT, TensorProto.FLOAT, shape)],
    )


@cache
def _session(reduce: int) -> Any:
    onnxruntime = import_onnxruntime()

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    graph = pixel_map_graph(PLANES // reduce).SerializeToString()
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def network_inputs(charge: NDArray[np.uint8], reduce: int) -> NDArray[np.float32]:
    """Network inputs float32[N, 1, rows, columns] of maps uint8[N, 2, 100, 80], by the graph of the served file.

    Raises:
        DataError: Values are masked.
    """
    if isinstance(charge, np.ma.MaskedArray) and np.any(charge.mask):
        raise DataError("charge: expected no masked values; leave those maps out")
    inputs: NDArray[np.float32] = _session(reduce).run([NETWORK_INPUT], {PIXEL_MAPS: charge.astype(np.float32)})[0]
    return inputs
