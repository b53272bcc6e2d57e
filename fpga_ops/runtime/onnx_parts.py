"""onnxruntime for what is left of a graph: small sessions that leave the cores to the device.

Threads that spin between two inferences would take the very cores on which an OpenCL CPU device computes, so there is
one thread and no spinning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fpga_ops.errors import FpgaOpsError, ModelError
from fpga_ops.runtime.onnxruntime_import import PRODUCTS, import_onnxruntime

Session: TypeAlias = Any
"""An `onnxruntime.InferenceSession`; the library has no types."""
Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]


def make_session(model: bytes, what: str, threads: int = 1) -> Session:
    """A session for a small part of a model.

    Between DequantizeLinear and QuantizeLinear it computes in float32, as the file says: onnxruntime's fusions are
    kernels with other roundings (that of an AveragePool with ceil_mode was off by 6 steps). Nor does it leave out the
    first of two QuantizeLinear in a row, which rounds too.

    Args:
        model: A serialised ONNX model.
        what: What to call it in an error.
        threads: That one inference uses.

    Raises:
        ModelError: onnxruntime does not take it.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry("session.disable_double_qdq_remover", "1")
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        if not any(name.encode() in model for name in PRODUCTS):  # the usual case does without importing onnx
            return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        import onnx

        from fpga_ops.runtime.exact_products import exact_session

        return exact_session(onnx.load_from_string(model), options)
    except Exception as error:
        raise ModelError(f"onnxruntime refuses {what}: {first_line(error)}") from error


def run_session(session: Session, outputs: Sequence[str], feeds: Arrays) -> list[npt.NDArray[np.generic]]:
    """Run a session: its `outputs` by name, in that order, of `feeds` by input name.

    Raises:
        FpgaOpsError: onnxruntime failed on these inputs.
    """
    try:
        result: list[npt.NDArray[np.generic]] = session.run(outputs, feeds)
    except Exception as error:
        raise FpgaOpsError(f"onnxruntime failed: {first_line(error)}") from error
    return result


def first_line(error: Exception) -> str:
    """The gist of an error of another library."""
    text = str(error).strip()
    return text.splitlines()[0][:400] if text else type(error).__name__
