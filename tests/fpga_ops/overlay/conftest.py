"""The emulator runs for real here: `triton-fpga emulator install` comes first (make test does it)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fpga_ops.overlay import EmulatorSettings, OverlayExecutable
from fpga_ops.runtime import emulator_place
from tests.fpga_ops.overlay.checks import closing

Emulate = Callable[..., OverlayExecutable]


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The emulator's programs, shared by the tests of one run."""
    return tmp_path_factory.mktemp("programs")


@pytest.fixture
def emulate(programs: Path) -> Iterator[Emulate]:
    """Compile a network for the emulator; closed at the test's end."""
    if emulator_place.find() is None:
        pytest.fail(f"the FPGA emulator is not in {emulator_place.directory()}: run 'triton-fpga emulator install'")
    yield from closing(
        lambda network, max_batch, geometry, images, settings: OverlayExecutable(
            network, max_batch, geometry, images=images, cache_dir=programs, settings=EmulatorSettings(**settings)
        )
    )
