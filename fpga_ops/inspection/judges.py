"""How far the answers of a network are from those of others that run the same file.

The judge is onnxruntime without any optimisation: each node by itself, as the ONNX specification says. How far
onnxruntime's own int8 kernels and OpenVINO are from it, on the same inputs, says what difference is usual.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from fpga_ops.importer.partition import Partition
from fpga_ops.loading import make
from fpga_ops.runtime.exact_products import with_exact_products
from fpga_ops.runtime.onnx_parts import first_line
from fpga_ops.runtime.onnxruntime_import import import_onnxruntime
from fpga_ops.signature import interface

Array = npt.NDArray[Any]
Run = Callable[[Mapping[str, Array]], Array]

CHUNK = 8
"""Rows at once, where the file does not fix how many."""
OURS, INT8, OPENVINO = "this network", "onnxruntime, int8 kernels", "OpenVINO, int8"
"""Who answers."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shift:
    """Answers minus onnxruntime's without optimisation.

    Attributes:
        name: Who answered.
        mean, sd: Of the logits' difference where the file ends in a softmax over two classes, else of the outputs'.
        largest: Largest difference, absolute, of the same.
        decisions: Rows on the other side of a probability of 0.5; None without a softmax over two classes.
        far: Those of them whose probability the judge puts further than 0.005 from 0.5; None likewise.
        rows: How many were compared.
        spread: Standard deviation of the judge's own logits or outputs.
    """

    name: str
    mean: float
    sd: float
    largest: float
    decisions: int | None
    far: int | None
    rows: int
    spread: float


def has_two_classes(partition: Partition) -> bool:
    """Whether the file's only output is a softmax over two classes."""
    outputs = partition.graph.outputs
    declared = interface(partition.graph)["outputs"]
    if len(outputs) != 1 or declared[outputs[0]]["shape"][1:] != [2]:
        return False
    maker = partition.graph.producer.get(outputs[0])
    return maker is not None and maker.operator == "Softmax"


def shifts(partition: Partition, inputs: Mapping[str, Array], device: str) -> list[Shift]:
    """The network on `device` first, then onnxruntime's int8 kernels and, where it is installed, OpenVINO.

    One that does not take the file is left out, with a warning.

    Args:
        partition: The imported file.
        inputs: For the file's inputs, any number of rows.
        device: As of `fpga_ops.load`; all give the same.
    """
    model, output = partition.graph.model, partition.graph.outputs[0]
    rows = next(iter(interface(partition.graph)["inputs"].values()))["shape"][0]
    chunk = rows if rows > 0 else CHUNK
    expected = _all(_onnxruntime(model, output, optimised=False), inputs, chunk)
    two = has_two_classes(partition)
    with make(partition, device, chunk) as network:
        results = [_shift(OURS, _all(lambda x: network.run(x)[output], inputs, chunk), expected, two)]
    others: dict[str, Callable[[], Run]] = {INT8: lambda: _onnxruntime(model, output, optimised=True)}
    if importlib.util.find_spec("openvino") is not None:
        others[OPENVINO] = lambda: _openvino(model, output)
    for name, start in others.items():
        try:
            run = start()
        except Exception as error:  # noqa: BLE001  # each library has its own
            logger.warning("not compared with %s, which does not take this file: %s", name, first_line(error))
        else:
            results.append(_shift(name, _all(run, inputs, chunk), expected, two))
    return results


def _all(run: Run, inputs: Mapping[str, Array], chunk: int) -> Array:
    rows = len(next(iter(inputs.values())))
    parts = [
        run({name: value[first : first + chunk] for name, value in inputs.items()}) for first in range(0, rows, chunk)
    ]
    return np.concatenate(parts).astype(np.float64)


def _shift(name: str, got: Array, expected: Array, two_classes: bool) -> Shift:
    decisions = far = None
    if two_classes:
        changed = (got[:, 1] > 0.5) != (expected[:, 1] > 0.5)
        decisions = int(changed.sum())
        far = int((changed & (np.abs(expected[:, 1] - 0.5) > 0.005)).sum())
        got, expected = (np.log(np.maximum(p[:, 1], 1e-38) / np.maximum(p[:, 0], 1e-38)) for p in (got, expected))
    gap = got - expected
    return Shift(
        name,
        float(gap.mean()),
        float(gap.std()),
        float(np.abs(gap).max()),
        decisions,
        far,
        len(got),
        float(expected.std()),
    )


def _onnxruntime(model: onnx.ModelProto, output: str, *, optimised: bool) -> Run:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        model = with_exact_products(model)
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda inputs: np.asarray(session.run([output], dict(inputs))[0])


def _openvino(model: onnx.ModelProto, output: str) -> Run:
    import io
    import sys

    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # openvino does without it
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(io.BytesIO(model.SerializeToString())), "CPU")
    return lambda inputs: np.array(compiled(dict(inputs))[output])
