"""What is known when an operator is met, and how a handler asks for its inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np

from fpga_ops.importer.graph import Array, Node
from fpga_ops.importer.steps import bounds, rescale_rule
from fpga_ops.importer.values import Constant, Integers, Leaf, QuantisedConstant, Real, UnsupportedError, Value
from fpga_ops.ir.exact import Dyadics
from fpga_ops.ir.network import Add, Step, Tensor


@dataclass(frozen=True)
class Context:
    """What has been found so far.

    Attributes:
        values: By tensor name of the file.
        tensors: Tensors of the integer network.
        batch: Images in a batch if the file fixes it, else None.
        steps: Those made so far.
        named: Every tensor of the file; none that is made here may be called the same.
    """

    values: Mapping[str, Value]
    tensors: dict[str, Tensor]
    batch: int | None
    steps: list[Step] = field(default_factory=list)
    named: frozenset[str] = frozenset()

    def check_made(self, names: Iterable[str]) -> None:
        """Refuse names for tensors between those of the file that the file gave to others.

        Raises:
            UnsupportedError: It names the tensor.
        """
        for name in names:
            if name in self.named:
                raise UnsupportedError(
                    f"the file has a tensor '{name}', a name that is needed here: rename that tensor"
                )

    def operand(self, node: Node, position: int) -> Value | None:
        """The value of an input, None if it was left out."""
        if position >= len(node.inputs) or not node.inputs[position]:
            return None
        return self.values[node.inputs[position]]

    def real(self, node: Node, position: int = 0) -> Real:
        """An input that must be a dequantised tensor or what one step makes of such."""
        value = self.operand(node, position)
        if isinstance(value, Real):
            return value
        if isinstance(value, Integers):
            raise UnsupportedError("it works on integers; a DequantizeLinear is expected before it")
        raise UnsupportedError(f"its input '{node.inputs[position] if position < len(node.inputs) else ''}' "
                               "is not quantised")  # fmt: skip

    def leaf(self, node: Node, position: int = 0) -> tuple[Real, Tensor]:
        """An input that must come straight from a DequantizeLinear."""
        value = self._bounded(self.real(node, position), node.inputs[position])
        if not isinstance(value.form, Leaf):
            name = node.inputs[position]
            raise UnsupportedError(f"its input '{name}' is not quantised: QuantizeLinear, DequantizeLinear are missing")
        return value, self.tensors[value.form.source]

    def _bounded(self, value: Real, name: str) -> Real:
        """Integers within bounds, where a ReLU or Clip of a dequantised tensor is read as it is: a step of its own.

        Only bounds that integers stand for, as the zero of a ReLU, leave nothing to be rounded.
        """
        if not isinstance(value.form, Leaf) or not value.clipped:
            return value
        source = self.tensors[value.form.source]
        for bound in (value.low, value.high):
            if math.isfinite(bound) and (Fraction(bound) / Fraction(source.scale)).denominator != 1:
                raise UnsupportedError(
                    f"its input '{name}' has the bound {bound:.6g}, for which no integer of scale {source.scale:.6g} "
                    "stands: QuantizeLinear, DequantizeLinear are missing before it"
                )
        tensor = replace(source, name=f"{name}:bounded")
        self.check_made([tensor.name])
        if tensor.name not in self.tensors:
            self.tensors[tensor.name] = tensor
            low, high = bounds(value, tensor)
            rule = rescale_rule(source, tensor, low, high)
            step = Add(value.nodes[-1], source.name, source.name, tensor.name, rule, value.nodes)
            self.steps.append(step)
        return Real(Leaf(tensor.name), value.shape, value.flat, nodes=value.nodes)

    def constant(self, node: Node, position: int) -> Array | None:
        """An input that must be stored in the file, as real numbers; None if it was left out."""
        value = self.operand(node, position)
        if value is None:
            return None
        if isinstance(value, Constant):
            return value.value
        if isinstance(value, QuantisedConstant):
            return value.real()
        raise UnsupportedError(f"its input '{node.inputs[position]}' must be a constant")

    def exact(self, node: Node, position: int, what: str) -> Dyadics | None:
        """As `constant`, without any rounding, flattened; None if it was left out."""
        value = self.operand(node, position)
        if isinstance(value, QuantisedConstant):
            return value.exact()
        given = self.constant(node, position)
        if given is None:
            return None
        if not np.isfinite(np.asarray(given, np.float64)).all():
            raise UnsupportedError(f"its {what} must be finite")
        return Dyadics.of(given)


Handler = Callable[[Context, Node], Value]
