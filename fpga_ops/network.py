"""A model ready to run: onnxruntime before, a device in the middle, numpy or onnxruntime after."""

from __future__ import annotations

import contextlib
import copy
import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, Self

import numpy as np
import numpy.typing as npt

from fpga_ops import targets
from fpga_ops.errors import DeviceError, InputError, NotFiniteError
from fpga_ops.ir.network import Float32Array, UInt8Array
from fpga_ops.model_parts import Contents, Outside
from fpga_ops.moved_modules import former_names
from fpga_ops.runtime import onnx_parts
from fpga_ops.signature import check_inputs
from fpga_ops.targets import Executable

Array = npt.NDArray[Any]

_FLOAT32 = np.dtype(np.float32)


@dataclass(frozen=True)
class Sessions:
    """Sessions of onnxruntime; None where there is nothing to run."""

    before: onnx_parts.Session | None
    after: onnx_parts.Session | None


class _Usual(NamedTuple):
    """The request that most are: the file's one input, float32, for one image.

    Attributes:
        name: Of the input.
        shape: Of it.
        made: What the part before the network makes of it, for the device.
        size: Numbers that the device takes for an image.
    """

    name: str
    shape: tuple[int, ...]
    made: tuple[str, ...]
    size: int


class Network:
    """A model on a device. Thread-safe: any thread may call `run`, `submit` and `features`.

    It belongs to the process that loaded it: of its forks those of an FPGA, its emulator and its RTL are refused.

    Args:
        contents: The file.
        others: What runs the parts of it that the device does not.
        executable: The integer network on the device.
        device: Name of the device.
        max_batch: Most images in one call.
    """

    def __init__(
        self, contents: Contents, others: Sessions, executable: Executable, device: str, max_batch: int = 8
    ) -> None:
        self.contents = contents
        self.device = device
        self.max_batch = max_batch
        self._interface = contents.interface
        self._head = contents.head
        self._before, self._after = others.before, others.after
        self._executable: Any = executable
        self._device_checks = bool(getattr(self._executable, "checks_values", False))
        # the device looks for NaN as it quantises, where all that comes is what it quantises
        self._checks_values = (
            self._before is None
            and self._device_checks
            and set(contents.quantised.values()) == self._interface["inputs"].keys()
        )
        self._makes_scores: bool = getattr(self._executable, "makes_scores", False)
        self._usual = self._usual_request()
        concurrent = getattr(self._executable, "concurrent", False) or device == targets.REFERENCE
        self._turn: contextlib.AbstractContextManager[object] = (
            contextlib.nullcontext() if concurrent else threading.Lock()
        )
        self._pool: ThreadPoolExecutor | None = None
        self._pool_of = 0
        self._pool_lock = threading.Lock()
        self._closing = False  # nothing more is accepted by `submit`
        self._closed = False  # the device is gone

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs of the file for a batch.

        Args:
            inputs: `float32` arrays by name, all with the same batch, 1 to `max_batch`.

        Raises:
            InputError: A tensor is missing, unknown, or of wrong dtype, shape, batch or values.
            DeviceError: The device failed; the model may be loaded again on another.
        """
        return self.run_timed(inputs)[0]

    def run_timed(self, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], float]:
        """As `run`, with the seconds that the device took, copies included."""
        image = self._usual_image(inputs)
        if image is None:
            self._check(inputs, values=not self._checks_values)
            floats = self._floats(inputs)
            start = time.perf_counter()
            made = self._device(floats, inputs, scores=self._makes_scores)
        else:
            start = time.perf_counter()
            made = self._run_single(image, inputs)
        seconds = time.perf_counter() - start
        return (made if self._makes_scores else self._finished(made, inputs)), seconds

    def _usual_image(self, inputs: Mapping[str, Array]) -> Array | None:
        """What the device gets for the usual request, a batch of one; None for any other request.

        It is compared with as little as can be: after an inference nothing of the interpreter is left in the caches.
        """
        usual = self._usual
        if usual is None or type(inputs) is not dict:
            return None
        value = inputs.get(usual.name)
        if (
            type(value) is not np.ndarray
            or value.shape != usual.shape
            or value.dtype is not _FLOAT32
            or len(inputs) != 1
        ):
            return None
        if self._before is None:
            return value
        if not np.logical_and.reduce(np.isfinite(value), None):
            return None  # the long way says which value it is
        image: Array = onnx_parts.run_session(self._before, usual.made, {usual.name: value})[0]
        return image if image.size == usual.size and image.dtype is _FLOAT32 else None

    def _run_single(self, image: Array, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """What the device makes of the usual request; by its shortest way if nobody else waits."""
        try:
            made: dict[str, Array] | None = self._executable.run_single(image)
        except NotFiniteError:
            self._refuse_values(inputs)
        if made is None:
            made = self._device(dict.fromkeys(self.contents.quantised, image), inputs, scores=self._makes_scores)
        return made

    def _finished(self, stored: Mapping[str, UInt8Array], inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The file's outputs from those of the integer network."""
        if self._head is not None:
            return dict(self._head.run(stored))
        integers = self._integers(stored)
        after = self.contents.after
        if self._after is None:
            return {name: (integers[name] if name in integers else inputs[name]) for name in after.outputs}
        feeds = {name: (integers[name] if name in integers else inputs[name]) for name in after.inputs}
        outputs = dict(zip(after.outputs, onnx_parts.run_session(self._after, after.outputs, feeds), strict=True))
        for name, value in outputs.items():
            if value.dtype.kind == "f" and np.isnan(value).any():
                row = f", row {np.argwhere(np.isnan(value))[0][0]}" if value.ndim else ""
                raise NotFiniteError(
                    f"nodes after the integer network make NaN of this {' and '.join(inputs)} (output '{name}'{row}): "
                    "values are expected as the model was made for"
                )
        return outputs

    def features(self, inputs: Mapping[str, Array]) -> dict[str, UInt8Array]:
        """The exact integers that the device stack makes of a batch, for known-answer tests.

        Returns:
            `uint8[N, C, H, W]` or `uint8[N, C]` by tensor name; tensors that the file holds as int8 are shifted by 128.
        """
        self._check(inputs, values=not self._checks_values)
        integers: dict[str, UInt8Array] = self._device(self._floats(inputs), inputs)
        return integers

    def submit(self, inputs: Mapping[str, Array]) -> Future[dict[str, Array]]:
        """As `run`, in the background: while one batch computes, the next is checked and prepared."""
        with self._pool_lock:
            if self._closing:
                raise DeviceError("the network is closed")
            if self._pool is None or self._pool_of != os.getpid():  # a fork has none of its threads
                self._pool_of = os.getpid()
                self._pool = ThreadPoolExecutor(
                    max_workers=2 * getattr(self._executable, "at_once", 1), thread_name_prefix="fpga-ops"
                )
            return self._pool.submit(self.run, inputs)

    def describe(self) -> dict[str, Any]:
        """What this is: inputs, outputs, device, precision, what runs where, and content hashes.

        `isa` is the instruction set of a CPU's kernels; it is empty for other devices.
        """
        contents = self.contents
        return {
            **copy.deepcopy(self._interface),
            "device": self.device,
            "precision": "int8",
            "isa": str(getattr(self._executable, "isa", None) or ""),
            "max_batch": self.max_batch,
            "partition": {
                "before": list(contents.before.nodes),
                "device": list(contents.device_nodes),
                "after": list(contents.after.nodes),
            },
            "network": contents.fingerprint,
            "kernel": str(getattr(self._executable, "kernel_hash", targets.REFERENCE)),
        }

    def close(self) -> None:
        """Finish what was submitted and release the device."""
        with self._pool_lock:
            if self._closing:
                return
            self._closing = True
            pool = self._pool if self._pool_of == os.getpid() else None
        if pool is not None:
            pool.shutdown(wait=True)
        with self._turn:
            self._closed = True
            self._executable.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _usual_request(self) -> _Usual | None:
        """What is usual where one tensor, of the caller or made of one, goes to a device with a short way for one."""
        contents = self.contents
        made = tuple(contents.quantised.values())
        through = contents.before.outputs if self._before is not None else tuple(self._interface["inputs"])
        short = getattr(self._executable, "checks_values", False) and hasattr(self._executable, "run_single")
        if not (short and len(self._interface["inputs"]) == 1 and len(made) == 1 and made == through):
            return None
        ((name, expected),) = self._interface["inputs"].items()
        batch, *shape = expected["shape"]
        if batch not in (-1, 1) or -1 in shape or expected["dtype"] != "float32":
            return None
        return _Usual(name, (1, *shape), made, self._executable.image_size)

    def _check(self, inputs: Mapping[str, Array], *, values: bool) -> None:
        if self._closed:
            raise DeviceError("the network is closed")
        check_inputs(inputs, self._interface["inputs"], self.max_batch, values=values)

    def _floats(self, inputs: Mapping[str, Array]) -> dict[str, Float32Array]:
        """The float tensors that the device quantises, by name of the quantised tensor."""
        made: Mapping[str, Array] = inputs
        if self._before is not None:
            before = self.contents.before
            feeds = {name: inputs[name] for name in before.inputs}
            made = {**inputs, **dict(zip(before.outputs, onnx_parts.run_session(self._before, before.outputs, feeds),
                                         strict=True))}  # fmt: skip
        floats = {name: made[real] for name, real in self.contents.quantised.items()}
        if self._before is not None:
            self._check_made(floats)
            if not self._device_checks and not all(np.isfinite(f).all() for f in floats.values()):
                self._refuse_values(inputs)
        return floats

    def _check_made(self, floats: Mapping[str, Array]) -> None:
        """Refuse what the file's own nodes made if it is no batch for the device: they may change batch and shape."""
        images = {len(value) for value in floats.values()}
        if len(images) > 1 or not 1 <= min(images) <= self.max_batch:
            raise InputError(
                f"nodes before the integer network make batches of {sorted(images)} of this input; one batch of at "
                f"most {self.max_batch} (max_batch) is expected"
            )
        for name, value in floats.items():
            tensor = self._executable.network.tensors[name]
            shape = (tensor.channels,) if tensor.flat else (tensor.channels, tensor.height, tensor.width)
            if value.shape[1:] != shape:
                raise InputError(
                    f"nodes before the integer network make '{self.contents.quantised[name]}' of shape "
                    f"{list(value.shape)} of this input; {['N', *shape]} is expected"
                )

    def _device(self, floats: Mapping[str, Float32Array], inputs: Mapping[str, Array], *, scores: bool = False) -> Any:
        """What the device makes of the floats: the network's outputs, or with `scores` those of the head."""
        with self._turn:
            if self._closed:
                raise DeviceError("the network is closed")
            try:
                return self._executable.scores(floats) if scores else self._executable.run(floats)
            except NotFiniteError:
                self._refuse_values(inputs)

    def _refuse_values(self, inputs: Mapping[str, Array]) -> NoReturn:
        """Say which value is not finite, or that the file's own nodes make such of values that all are."""
        self._check(inputs, values=True)
        made = ", ".join(f"'{name}'" for name in self.contents.quantised.values())
        raise NotFiniteError(
            f"nodes before the integer network make NaN or infinities of this {' and '.join(inputs)}: finite values of "
            f"{made} are expected, from an input as the model was made for"
        )

    def _integers(self, stored: Mapping[str, UInt8Array]) -> Mapping[str, Array]:
        """Outputs of the device as the file holds them: uint8, or int8."""
        signed = self.contents.signed
        if not signed:
            return stored
        return {
            name: (value ^ np.uint8(128)).view(np.int8) if name in signed else value for name, value in stored.items()
        }


def make_sessions(contents: Contents) -> Sessions:
    """What runs the parts of a file that the device does not.

    Raises:
        ModelError: onnxruntime refuses one.
    """
    after = None if contents.head else _session(contents.after, "the part after the integer network")
    return Sessions(_session(contents.before, "the part before the integer network"), after)


def _session(part: Outside, what: str) -> onnx_parts.Session | None:
    return onnx_parts.make_session(part.model, what) if part.model else None


__getattr__ = former_names("fpga_ops.network", "fpga_ops.ir.network")
"""A release ago this was the module of the network's data."""
