"""What the tests of the overlay's two forms, kernels and RTL, have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import numpy as np

from fpga_ops.ir import reference
from fpga_ops.ir.network import Float32Array, IntegerNetwork, UInt8Array
from fpga_ops.overlay import Geometry
from tests.support import networks


class Executable(Protocol):
    """What both are."""

    def run(self, inputs: dict[str, Float32Array]) -> dict[str, UInt8Array]: ...

    def run_integers(self, inputs: dict[str, UInt8Array]) -> dict[str, UInt8Array]: ...

    def close(self) -> None: ...


Made = TypeVar("Made", bound=Executable)


def closing(make: Callable[..., Made]) -> Iterator[Callable[..., Made]]:
    """A fixture that compiles networks; what it made is closed at the test's end.

    Args:
        make: Called with network, largest batch, geometry, images at once and a dictionary of settings.
    """
    made: list[Made] = []

    def compile_one(
        network: IntegerNetwork,
        geometry: Geometry | None = None,
        *,
        max_batch: int = 2,
        images: int = 1,
        **settings: object,
    ) -> Made:
        made.append(make(network, max_batch, geometry, images, settings))
        return made[-1]

    yield compile_one
    for executable in made:
        executable.close()


def integer_images(network: IntegerNetwork, count: int, seed: int = 5) -> dict[str, UInt8Array]:
    """Random quantised inputs, `uint8[count, H, W, C]`."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.integers(0, 256, (count, *network.tensors[name].shape)).astype(np.uint8) for name in network.inputs
    }


def check_bits(executable: Executable, network: IntegerNetwork, count: int, seed: int) -> None:
    """Every output is the reference's."""
    images = integer_images(network, count, seed)
    want = reference.run_integers(network, images)
    got = executable.run_integers(images)
    for name in network.outputs:
        assert np.array_equal(got[name], want[name]), f"{name}: {(got[name] != want[name]).sum()} differ"


def check_float_images(executable: Executable, network: IntegerNetwork) -> None:
    """Float images in, ONNX layout out, as the reference has them."""
    images = networks.random_images(network, 2, np.random.default_rng(0))
    got = executable.run(images)
    want = reference.ReferenceExecutable(network).run(images)
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert got[name].shape == value.shape
        assert np.array_equal(got[name], value)
