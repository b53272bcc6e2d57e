"""What a model takes and gives, and the check of what came."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import numpy.typing as npt

from fpga_ops.errors import InputError, ModelError, NotFiniteError

if TYPE_CHECKING:
    import onnx

    from fpga_ops.importer.graph import Graph

_DTYPES = {name: np.dtype(name) for name in ("float32", "float64", "int32", "int64", "uint8", "int8")}


class TensorInterface(TypedDict):
    """Dtype by its numpy name; shape with -1 for any size."""

    dtype: str
    shape: list[int]


class Interface(TypedDict):
    """Inputs and outputs by name."""

    inputs: dict[str, TensorInterface]
    outputs: dict[str, TensorInterface]


def interface(graph: Graph) -> Interface:
    """Inputs and outputs of a file."""
    return {
        "inputs": {name: _declared(value) for name, value in graph.inputs.items()},
        "outputs": {value.name: _declared(value) for value in graph.model.graph.output},
    }


def _declared(value: onnx.ValueInfoProto) -> TensorInterface:
    import onnx

    tensor = value.type.tensor_type
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    except KeyError:
        raise ModelError(
            f"the file does not say of which type '{value.name}' is; a tensor of numbers is expected"
        ) from None
    shape = [int(axis.dim_value) if axis.HasField("dim_value") else -1 for axis in tensor.shape.dim]
    return {"dtype": dtype, "shape": shape}


def check_inputs(
    inputs: Mapping[str, object], expected: Mapping[str, TensorInterface], max_batch: int, *, values: bool = True
) -> None:
    """Refuse inputs that are not what the model takes; without `values`, NaN and infinities are not looked for.

    Raises:
        InputError: Names the tensor, what was expected and what came.
    """
    if not isinstance(inputs, Mapping):
        raise InputError(f"a dictionary with arrays for {sorted(expected)} is expected, {type(inputs).__name__} came")
    if inputs.keys() != expected.keys():
        raise InputError(f"inputs {sorted(expected)} are expected, {sorted(inputs, key=str)} came")
    batch = -1
    for name, want in expected.items():
        size = len(check_tensor(name, inputs[name], want, max_batch, values=values))
        if batch not in (-1, size):
            raise InputError(f"input '{name}': a batch of {batch} is expected as in the others, {size} came")
        batch = size


def check_tensor(
    name: str, value: object, expected: TensorInterface, max_batch: int, *, values: bool = True
) -> npt.NDArray[Any]:
    """Refuse a tensor that is not what the model takes; a batch may have 1 to `max_batch` images.

    Raises:
        InputError: Names the tensor, what was expected and what came.
    """
    if not isinstance(value, np.ndarray):
        raise InputError(f"input '{name}': a numpy array is expected, {type(value).__name__} came")
    if isinstance(value, np.ma.MaskedArray) and np.any(value.mask):
        raise InputError(f"input '{name}': an array without masked values is expected, some of these are masked")
    shape = expected["shape"]
    # the name of a dtype is worked out by numpy each time it is asked for
    if value.dtype is not _DTYPES.get(expected["dtype"]):
        if value.dtype.name != expected["dtype"]:
            raise InputError(f"input '{name}': dtype {expected['dtype']} is expected, {value.dtype.name} came")
        if not value.dtype.isnative:  # its name does not tell; onnxruntime would read other numbers
            raise InputError(
                f"input '{name}': {expected['dtype']} in this machine's byte order is expected, {value.dtype.str} "
                f"came; astype('{expected['dtype']}') makes the one of the other"
            )
    fits = value.ndim == len(shape) and all(
        want in (-1, size) for want, size in zip(shape[1:], value.shape[1:], strict=True)
    )
    if not fits:
        raise InputError(f"input '{name}': shape {shape} is expected, {list(value.shape)} came")
    if not (1 <= len(value) <= max_batch and shape[0] in (-1, len(value))):
        most = f"1 to {max_batch}" if shape[0] == -1 else str(shape[0])
        raise InputError(f"input '{name}': a batch of {most} is expected, {len(value)} came")
    if values and value.dtype.kind == "f" and not _sum_is_finite(value):
        bad = np.argwhere(~np.isfinite(value))
        if len(bad):
            where = bad[0].tolist()
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            came = value[tuple(where)]
            raise NotFiniteError(f"input '{name}': finite values are expected, {came} came at {where}{more}")
    return value


def _sum_is_finite(value: npt.NDArray[Any]) -> bool:
    """True only if every value is finite: one pass, and no array is made. Large finite values may overflow the sum."""
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(value.sum())
