"""Typed errors of `fpga_ops`. Each says what was expected, what came and what to do."""

from __future__ import annotations


class FpgaOpsError(Exception):
    """Base class of every error that `fpga_ops` raises on purpose.

    Attributes:
        exit_code: What the command line returns for it.
    """

    exit_code = 2


class ModelError(FpgaOpsError):
    """The model file cannot be served: unreadable, not quantised (QDQ), or with an unsupported operator.

    Args:
        reason: What is wrong, and what would be accepted.
        node: Name of the ONNX node at fault, if one is.
        operator: Its operator type, if known.
    """

    def __init__(self, reason: str, *, node: str | None = None, operator: str | None = None) -> None:
        self.reason = reason
        self.node = node
        self.operator = operator
        where = ""
        if node is not None:
            where = f"node '{node}'" + (f" ({operator})" if operator else "") + ": "
        elif operator is not None:
            where = f"{operator}: "
        super().__init__(where + reason)

    def __reduce__(self) -> tuple[object, ...]:
        return _model_error, (self.reason, self.node, self.operator)


class NoConstantsError(ModelError):
    """An integer device cannot round a layer exactly: no fixed-point constants give all its results.

    Args:
        reason: As of `ModelError`.
        channels: Output channels without constants.
        nodes: Names of the ONNX nodes that became the layer.
    """

    def __init__(self, reason: str, channels: tuple[int, ...], nodes: tuple[str, ...] = ()) -> None:
        super().__init__(reason, node=nodes[-1] if nodes else None)
        self.channels = channels
        self.nodes = nodes

    def __reduce__(self) -> tuple[object, ...]:
        return NoConstantsError, (self.reason, self.channels, self.nodes)


def _model_error(reason: str, node: str | None, operator: str | None) -> ModelError:
    return ModelError(reason, node=node, operator=operator)


class InputError(FpgaOpsError, ValueError):
    """A request's tensor is not what the network takes: wrong name, dtype, shape or values.

    The message names the tensor, what was expected and what came.
    """


class NotFiniteError(InputError):
    """A value of a request's tensor is NaN or infinite."""


class DeviceError(FpgaOpsError):
    """A device is missing, cannot build a program, ran out of memory, timed out or answered wrongly."""
