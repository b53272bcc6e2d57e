"""Weight scales for which integer devices have exact constants.

Where a channel's weights are tiny beside its output, a step of the output is 100,000 steps of the accumulator or more,
and 31 bits may not tell all thresholds from their neighbours. Another scale, a few units of float32's last place away,
has other thresholds: one of them mostly can be done, and nothing else tells the two files apart.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import numpy_helper

from fpga_ops.errors import ModelError, NoConstantsError
from fpga_ops.importer.pipeline import import_proto

ATTEMPTS = 64
"""Scales tried for a channel."""


def settle_scales(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model itself if all its layers have constants, else a copy whose weight scales were moved until they have.

    What an import refuses for another reason is left to the import that serves.

    Args:
        model: A file in QDQ form. A channel's weight scale is made larger by a unit in the last place at a time.

    Raises:
        NoConstantsError: None of the scales tried will do.
    """
    settled = model
    attempts: Counter[str] = Counter()
    while True:
        try:
            import_proto(settled)
        except NoConstantsError as error:
            attempts[str(error.node)] += 1
            if attempts[str(error.node)] > ATTEMPTS:
                raise
            if settled is model:
                settled = onnx.ModelProto()
                settled.CopyFrom(model)
            _move(settled, error)
        except ModelError:
            return settled
        else:
            return settled


def _move(model: onnx.ModelProto, error: NoConstantsError) -> None:
    """Make the scales of a layer's channels the next larger numbers."""
    makers = {output: node for node in model.graph.node for output in node.output}
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.name in error.nodes and node.op_type in ("Conv", "Gemm", "MatMul"):
            dequantise = makers.get(node.input[1])
            stored = values.get(dequantise.input[1]) if dequantise is not None else None
            if stored is not None:
                scale = numpy_helper.to_array(stored).copy()
                channels = list(error.channels) if scale.ndim and scale.size > 1 else ...
                scale[channels] = np.nextafter(scale[channels], np.inf, dtype=scale.dtype)
                stored.CopyFrom(numpy_helper.from_array(scale, stored.name))
                return
    raise error
