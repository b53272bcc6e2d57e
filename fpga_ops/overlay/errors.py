"""Errors of the overlay."""

from __future__ import annotations

from fpga_ops.errors import DeviceError


class DoesNotFitError(DeviceError):
    """A network needs more of something than the board or the descriptor format has.

    Attributes:
        resource: What runs out, with its unit.
        needed: How much the network takes.
        available: How much there is.
    """

    def __init__(self, resource: str, needed: int, available: int, where: str = "") -> None:
        self.resource, self.needed, self.available, self.where = resource, needed, available, where
        prefix = f"{where}: " if where else ""
        super().__init__(f"{prefix}{resource}: {needed} needed, {available} available, {needed - available} too many")

    def __reduce__(self) -> tuple[object, ...]:
        return DoesNotFitError, (self.resource, self.needed, self.available, self.where)
