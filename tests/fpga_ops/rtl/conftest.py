"""Verilator runs for real here; models are kept in the user's cache, where their names say what they are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from fpga_ops.ir.network import IntegerNetwork
from fpga_ops.overlay import Geometry
from fpga_ops.rtl import RtlExecutable, RtlSettings

Simulate = Callable[..., RtlExecutable]


@pytest.fixture
def simulate() -> Iterator[Simulate]:
    """Compile a network for the simulated RTL; closed at the test's end."""
    made: list[RtlExecutable] = []

    def compile_one(
        network: IntegerNetwork,
        geometry: Geometry | None = None,
        *,
        max_batch: int = 2,
        images: int = 1,
        **settings: object,
    ) -> RtlExecutable:
        executable = RtlExecutable(
            network, max_batch, geometry, images=images,
            settings=RtlSettings(**settings),  # type: ignore[arg-type]
        )  # fmt: skip
        made.append(executable)
        return executable

    yield compile_one
    for executable in made:
        executable.close()
