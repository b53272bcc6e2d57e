"""Verilator runs for real here; models are kept in the user's cache, where their names say what they are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from fpga_ops.rtl import RtlExecutable, RtlSettings
from tests.fpga_ops.overlay.checks import closing

Simulate = Callable[..., RtlExecutable]


@pytest.fixture
def simulate() -> Iterator[Simulate]:
    """Compile a network for the simulated RTL; closed at the test's end."""
    yield from closing(
        lambda network, max_batch, geometry, images, settings: RtlExecutable(
            network, max_batch, geometry, images=images, settings=RtlSettings(**settings)
        )
    )
