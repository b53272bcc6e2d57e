"""The emulator runs for real here: `triton-fpga emulator install` comes first (make test does it)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from fpga_ops.ir.network import IntegerNetwork, UInt8Array
from fpga_ops.overlay import EmulatorSettings, Geometry, OverlayExecutable
from fpga_ops.runtime import emulator_place

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
    made: list[OverlayExecutable] = []

    def compile_one(
        network: IntegerNetwork,
        geometry: Geometry | None = None,
        *,
        max_batch: int = 2,
        images: int = 1,
        **settings: object,
    ) -> OverlayExecutable:
        executable = OverlayExecutable(
            network, max_batch, geometry, images=images, cache_dir=programs,
            settings=EmulatorSettings(**settings),  # type: ignore[arg-type]
        )  # fmt: skip
        made.append(executable)
        return executable

    yield compile_one
    for executable in made:
        executable.close()


def integer_images(network: IntegerNetwork, count: int, seed: int = 5) -> dict[str, UInt8Array]:
    """Random quantised inputs, `uint8[count, H, W, C]`."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.integers(0, 256, (count, *network.tensors[name].shape)).astype(np.uint8) for name in network.inputs
    }
