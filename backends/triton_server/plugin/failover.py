"""Devices in order of preference, each with the same bits: when one fails, the next repeats the request.

Every target of fpga_ops of one precision equals that precision's reference bit for bit, so a change of device changes
no answer. A device of another precision (block floating point, say) gives other bits and is never used in its place.
"""

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fpga_ops.errors import DeviceError, FpgaOpsError, ModelError
from triton_server.plugin.busy_time import BusyTime
from triton_server.plugin.device_thread import Arrays, DeviceThreads
from triton_server.plugin.device_trial import DeviceAbortedError
from triton_server.protocol import FIRST, LAST, SPARE, Code, coded
from triton_server.repository.known_answers import Golden


class Network(Protocol):
    """What fpga_ops.load returns."""

    def run_timed(self, inputs: Arrays) -> tuple[dict[str, npt.NDArray[Any]], float]:
        """Outputs by name, batch first, and seconds on the device; N at most the batch that it was loaded for."""

    def features(self, inputs: Arrays) -> dict[str, npt.NDArray[np.uint8]]:
        """The exact integers uint8[N, ...] that the device makes, by name."""

    def describe(self) -> dict[str, Any]:
        """Device, precision, partition, kernel hash."""

    def close(self) -> None:
        """Free the device."""


@dataclass(frozen=True)
class Failure:
    """One device that was taken out of service."""

    device: str
    cause: str
    """build, precision, aborted, lost, timeout, wrong_answer"""
    detail: str


class RequestFailedError(FpgaOpsError):
    """A request that a sound device cannot answer."""


class NoDeviceError(FpgaOpsError):
    """Every device of the list has failed. No failure of a device: none is there to be taken out."""


class Failover:
    """Runs on the first device of ``devices`` that works; ``load`` opens a network on a device.

    ``run`` and ``self_test`` may be called from any thread, and inferences overlap: the device is given the next batch
    while it computes one (two calls at a time). Who finds it at fault keeps the others waiting while it looks for
    another; what was under way on it is repeated there. ``on_failure`` is told of each device that is taken out,
    ``on_settled`` of the end of each turn in which devices may have been opened: what was opened has then answered, or
    was given up.
    """

    def __init__(
        self,
        load: Callable[[str | None], Network],
        devices: tuple[str | None, ...],
        *,
        precision: str = "int8",
        timeout_s: float,
        on_failure: Callable[[Failure], None] = lambda failure: None,
        on_settled: Callable[[], None] = lambda: None,
    ) -> None:
        self._load = load
        self._pending = list(devices)
        self._count = len(devices)
        self._precision = precision
        self._timeout_s = timeout_s
        self._on_failure = on_failure
        self._on_settled = on_settled
        self._used: _Used | None = None
        self._lock = threading.Lock()
        self._settled = False
        self._busy = BusyTime()
        self._golden: Golden | None = None
        self.failures: list[Failure] = []
        self.description: dict[str, Any] = {}
        self._in_turn = True
        self._ended = False
        self.device = ""
        """Name of the device in use."""
        try:
            self._advance()
        except BaseException:
            on_settled()
            raise
        finally:
            self._in_turn = False

    @property
    def choice(self) -> str:
        """Which of its devices the model serves on: the "first", a "spare", or the "last" after all others failed."""
        place = self._count - len(self._pending)
        return FIRST if place <= 1 else LAST if place == self._count else SPARE

    def set_golden(self, golden: Golden | None) -> None:
        """Give the known answers and test the present device with them; it is replaced when it fails."""
        with self._turn():
            self._golden = golden
            self._ensure_right()

    @property
    def alive(self) -> bool:
        """Whether a device is left: one in use, or one that is being opened in the place of another."""
        return self._used is not None or (self._in_turn and not self._ended)

    def run(self, inputs: Arrays) -> tuple[dict[str, npt.NDArray[Any]], float, dict[str, Any]]:
        """Infer; returns outputs by name (batch first), seconds on the device, and what the network says of itself.

        The description belongs to this answer: another thread may replace the device as soon as this one is done.

        A device that fails is asked the known answer, where there is one: with the right answer to that, and a second
        failure of the same request, the request is at fault and the device stays. Else the next device takes over.

        Raises InputError for inputs that no device would take, RequestFailedError for those that fail on a sound
        device, NoDeviceError when no device is left.
        """
        with self._lock:  # held by whoever looks for another device
            used = self._used if self._settled else None
        error: BaseException | None = None
        if used is not None:
            try:
                outputs, seconds = used.threads.call(used.network.run_timed, inputs, self._timeout_s)
            except _FAILURES as failure:
                error = failure
            else:
                if used is self._used:
                    return outputs, self._busy.add(seconds), used.description
                # It was taken out meanwhile, for a wrong answer perhaps: the next one says whether this is right.
        with self._turn():
            return self._repeat(inputs, used, error)

    def self_test(self) -> str | None:
        """Ask the known answer and replace a device that gives another. Returns what was wrong, or None."""
        with self._turn():
            before = len(self.failures)
            self._ensure_right()
            return None if len(self.failures) == before else self.failures[-1].detail

    def close(self) -> None:
        """Free the device."""
        with self._lock:
            self._drop()

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        with self._lock:
            self._in_turn = True
            try:
                yield
            finally:
                self._in_turn = False
                self._settled = True
                self._on_settled()

    def _repeat(
        self, inputs: Arrays, failed: "_Used | None", error: BaseException | None
    ) -> tuple[dict[str, npt.NDArray[Any]], float, dict[str, Any]]:
        """Infer while all others wait, after ``error`` on the device ``failed``, if it was tried at all."""
        absolved: _Used | None = None
        while True:
            if error is not None and failed is self._used:  # else another request has found it at fault before
                if absolved is failed:
                    text = f"the request fails on a sound device ({self.device}): {error}"
                    raise RequestFailedError(text) from error
                if self._is_sound(error):
                    absolved = failed
                else:
                    self._take_out(error)
            failed = self._used
            try:
                outputs, seconds = self._call(inputs)
            except _FAILURES as failure:
                error = failure
            else:
                return outputs, self._busy.add(seconds), self.description

    def _ensure_right(self) -> None:
        while self._golden is not None:
            try:
                wrong = self._golden.difference(*self._known_answer(self._golden))
            except _FAILURES as error:
                self._take_out(error)
                continue
            if wrong is None:
                return
            self._take_out(_WrongAnswerError(wrong))

    def _is_sound(self, error: BaseException) -> bool:
        """Whether the device gives the known answer after a failure. Without one, or without an answer, it is not."""
        if self._golden is None or isinstance(error, TimeoutError):
            return False
        try:
            return self._golden.difference(*self._known_answer(self._golden)) is None
        except _FAILURES:
            return False

    def _known_answer(self, golden: Golden) -> tuple[Arrays, npt.NDArray[Any] | None]:
        outputs, _ = self._call(golden.inputs)
        if golden.features is None:
            return outputs, None
        made = list(self._call(golden.inputs, features=True).values())
        return outputs, made[0] if len(made) == 1 else None

    def _call(self, inputs: Arrays, *, features: bool = False) -> Any:
        used = self._used
        if used is None:
            raise NoDeviceError(self._exhausted())
        method = used.network.features if features else used.network.run_timed
        return used.threads.call(method, inputs, self._timeout_s)

    def _take_out(self, error: BaseException) -> None:
        self._record(self.device, error)
        self._drop(abandon=isinstance(error, TimeoutError))
        self._advance()

    def _advance(self) -> None:
        """Open the next device that can be opened. Raises NoDeviceError at the end of the list."""
        while self._pending:
            name = self._pending.pop(0)
            try:
                network = self._load(name)
            except ModelError:
                raise  # the file is at fault, not the device
            except _FAILURES as error:
                self._record(name or "auto", error)
                continue
            description = network.describe()
            device, precision = str(description.get("device", name or "auto")), str(description.get("precision", ""))
            if precision != self._precision:
                self._record(device, _OtherPrecisionError(self._precision, precision))
                network.close()
                continue
            self.description, self.device = {**description, "device": device}, device
            self._settled = False
            self._used = _Used(network, DeviceThreads(), self.description)
            return
        self._ended = True
        raise NoDeviceError(self._exhausted())

    def _exhausted(self) -> str:
        tried = "; ".join(f"{failure.device}: {failure.detail}" for failure in self.failures)
        return coded(Code.NO_DEVICE, f"no device is left ({tried or 'none was given'})")

    def _record(self, device: str, error: BaseException) -> None:
        cause = "lost"
        if isinstance(error, TimeoutError):
            cause = "timeout"
        elif isinstance(error, _WrongAnswerError):
            cause = "wrong_answer"
        elif isinstance(error, DeviceAbortedError):
            cause = "aborted"
        elif isinstance(error, _OtherPrecisionError):
            cause = "precision"
        elif self._used is None:
            cause = "build"
        failure = Failure(device, cause, str(error) or type(error).__name__)
        self.failures.append(failure)
        self._on_failure(failure)

    def _drop(self, *, abandon: bool = False) -> None:
        used, self._used = self._used, None
        if used is None:
            return
        used.threads.end(abandon=abandon)
        if not abandon:  # closing a device that hangs would hang
            try:
                used.network.close()
            except _FAILURES as error:
                self._on_failure(Failure(self.device, "close", str(error)))


class _WrongAnswerError(DeviceError):
    """The device gave another answer than the recorded one."""


class _OtherPrecisionError(DeviceError):
    """The device computes other bits than the model is served with."""

    def __init__(self, wanted: str, came: str) -> None:
        super().__init__(
            f"it computes in precision {came or 'unknown'}, and the model is served as {wanted}, whose bits differ: "
            "take the device out of the model's list"
        )


_FAILURES = (DeviceError, RuntimeError, MemoryError, TimeoutError, OSError)
"""What a device's failure looks like: our own error, pyopencl's (a RuntimeError), and the system's."""


@dataclass(frozen=True, eq=False)
class _Used:
    """The device in use."""

    network: Network
    threads: DeviceThreads
    description: dict[str, Any]


def split_rows(outputs: Arrays, counts: list[int]) -> list[dict[str, npt.NDArray[Any]]]:
    """Share out the rows (axis 0) of a batch: ``counts`` rows to each request, in order.

    Raises ModelError for an output with another number of rows, of which nobody knows whose they are.
    """
    edges = np.cumsum([0, *counts])
    for name, value in outputs.items():
        rows = value.shape[0] if value.ndim else 0
        if rows != edges[-1]:
            raise ModelError(f"output '{name}': {edges[-1]} rows are expected, as of the inputs, {rows} came")
    return [{name: value[a:b] for name, value in outputs.items()} for a, b in itertools.pairwise(edges)]
