"""The data classes of a plan as JSON and arrays, and back. Only classes that are listed here are ever made."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fpga_ops.ir.classifier_head import Head
from fpga_ops.ir.network import (
    Add,
    AddRule,
    ExactAffine,
    ExactSum,
    GlobalAveragePool,
    IntegerNetwork,
    MaxPool,
    Requantise,
    Tensor,
)
from fpga_ops.model_parts import Contents, Outside
from fpga_ops.vector.layout import Layout
from fpga_ops.vector.plan import Layer, Plan
from fpga_ops.vector.shapes import ConvShape, Geometry, Tile

_CLASSES: dict[str, type[Any]] = {
    one.__name__: one
    for one in (
        Add, AddRule, Contents, ConvShape, ExactAffine, ExactSum, Geometry, GlobalAveragePool, Head, IntegerNetwork,
        Layer, Layout, MaxPool, Outside, Plan, Requantise, Tensor, Tile,
    )
}  # fmt: skip
_KINDS = "iuf"
"""Of dtypes: integers and floats."""


@dataclass
class Arrays:
    """Collects arrays, each at a multiple of `step` bytes.

    Attributes:
        step: In bytes.
        chunks: What to write, one behind the other.
        size: Bytes of these.
    """

    step: int
    chunks: list[memoryview | bytes] = field(default_factory=list)
    size: int = 0

    def put(self, array: npt.NDArray[Any]) -> list[Any]:
        """Take an array; what describes it."""
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        place = self.size
        self.chunks += [content, bytes(-len(content) % self.step)]
        self.size += -(-len(content) // self.step) * self.step
        return [place, array.dtype.str, list(array.shape)]


def encode(value: object, arrays: Arrays) -> Any:
    """A value as JSON; its arrays go to `arrays`.

    Raises:
        TypeError: A class that is not listed.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return ["array", *arrays.put(value)]
    if isinstance(value, bytes):
        return ["bytes", *arrays.put(np.frombuffer(value, np.uint8))]
    if isinstance(value, tuple | list | frozenset):
        items = sorted(value) if isinstance(value, frozenset) else value
        return [type(value).__name__, *(encode(item, arrays) for item in items)]
    if isinstance(value, dict):
        return ["dict", *([encode(key, arrays), encode(item, arrays)] for key, item in value.items())]
    name = type(value).__name__
    if not is_dataclass(value) or _CLASSES.get(name) is not type(value):
        raise TypeError(f"{name} is not stored")
    return [name, *(encode(getattr(value, entry.name), arrays) for entry in fields(value))]


def decode(stored: Any, memory: memoryview) -> Any:
    """The value that `encode` was given; arrays stay where they are.

    Args:
        stored: JSON.
        memory: What `Arrays.chunks` held.

    Raises:
        ValueError, TypeError, KeyError, IndexError: It is not what `encode` makes.
    """
    if not isinstance(stored, list):
        return stored
    kind, *items = stored
    if kind in ("array", "bytes"):
        place, name, shape = items
        dtype = np.dtype(name)
        if dtype.kind not in _KINDS:
            raise ValueError(f"an array of {dtype}")
        count = int(np.prod(shape, dtype=np.int64))
        array = np.frombuffer(memory, dtype, count, place) if count else np.empty(0, dtype)
        return array.tobytes() if kind == "bytes" else array.reshape(shape)
    if kind == "dict":
        return {decode(key, memory): decode(item, memory) for key, item in items}
    values = (decode(item, memory) for item in items)
    if kind in ("tuple", "list", "frozenset"):
        return {"tuple": tuple, "list": list, "frozenset": frozenset}[kind](values)
    return _CLASSES[kind](*values)
