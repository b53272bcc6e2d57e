"""Fail-over: the next device repeats the request; a bad request does not cost a device."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fpga_ops.errors import DeviceError, InputError, ModelError
from triton_server.plugin.device_thread import TakenOutError
from triton_server.plugin.failover import Failover, Failure, NoDeviceError, RequestFailedError, split_rows
from triton_server.repository.known_answers import Golden

X = {"images": np.arange(6, dtype=np.float32).reshape(2, 3)}
Y = X["images"].sum(axis=1, keepdims=True)


class FakeNetwork:
    """Sums rows; ``fault`` may raise, hang or return another answer."""

    def __init__(
        self, device: str | None, fault: Callable[[Any], Any] | None = None, precision: str = "int8"
    ) -> None:  # fmt: skip
        self.device, self.fault, self.closed, self.calls = device or "auto", fault, False, 0
        self.precision = precision

    def run_timed(self, inputs: Any) -> tuple[dict[str, Any], float]:
        self.calls += 1
        answer = {"scores": inputs["images"].sum(axis=1, keepdims=True)}
        return (self.fault(inputs) or answer) if self.fault else answer, 0.001

    def features(self, inputs: Any) -> dict[str, Any]:
        return {"features": inputs["images"].astype(np.uint8)}

    def describe(self) -> dict[str, Any]:
        return {"device": self.device, "precision": self.precision, "kernel": "k"}

    def close(self) -> None:
        self.closed = True


def golden(features: bool = True) -> Golden:
    return Golden(X, {"scores": Y}, X["images"].astype(np.uint8) if features else None)


def chain(networks: dict[str, FakeNetwork | Exception], seen: list[Failure], timeout_s: float = 5.0) -> Failover:
    def load(device: str | None) -> FakeNetwork:
        made = networks[device or "auto"]
        if isinstance(made, Exception):
            raise made
        return made

    return Failover(load, tuple(networks), timeout_s=timeout_s, on_failure=seen.append)


def raises(error: Exception, when: Callable[[Any], bool] = lambda inputs: True) -> Callable[[Any], None]:
    def fault(inputs: Any) -> None:
        if when(inputs):
            raise error

    return fault


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (DeviceError("device lost"), "lost"),
        (RuntimeError("clEnqueueNDRangeKernel failed: OUT_OF_RESOURCES"), "lost"),
        (MemoryError(), "lost"),
    ],
)
def test_a_failing_device_is_replaced_and_the_request_repeated(error: Exception, cause: str) -> None:
    seen: list[Failure] = []
    bad, good = FakeNetwork("fpga", raises(error)), FakeNetwork("cpu")
    with_spare = chain({"fpga": bad, "cpu": good}, seen)
    outputs, _, description = with_spare.run(X)
    np.testing.assert_array_equal(outputs["scores"], Y)
    assert description["device"] == "cpu"
    assert [(f.device, f.cause) for f in seen] == [("fpga", cause)]
    assert bad.closed
    with_spare.run(X)
    assert bad.calls == 1, "the failed device is not asked again"


def test_a_device_that_cannot_be_built_is_passed_over() -> None:
    seen: list[Failure] = []
    spare = chain({"fpga": DeviceError("no bitstream"), "cpu": FakeNetwork("cpu")}, seen)
    assert spare.device == "cpu"
    assert [(f.device, f.cause) for f in seen] == [("fpga", "build")]


def test_a_device_of_another_precision_never_takes_over() -> None:
    """Its answers are other bits, so it is passed over at the start and after a failure, and said to be."""
    seen: list[Failure] = []
    other, cpu = FakeNetwork("fpga", precision="bfp"), FakeNetwork("cpu")
    spare = chain({"fpga": other, "cpu": cpu}, seen)
    assert (spare.device, spare.description["precision"]) == ("cpu", "int8")
    assert [(f.device, f.cause) for f in seen] == [("fpga", "precision")]
    assert seen[0].detail.startswith("it computes in precision bfp, and the model is served as int8")
    assert other.closed
    first = FakeNetwork("cpu", raises(DeviceError("lost")))
    with pytest.raises(NoDeviceError, match="precision bfp"):
        chain({"cpu": first, "fpga": FakeNetwork("fpga", precision="bfp")}, seen).run(X)


def test_what_serves_is_the_first_a_spare_or_the_last() -> None:
    fault = raises(DeviceError("lost"))
    spare = chain({"a": FakeNetwork("a", fault), "b": FakeNetwork("b", fault), "c": FakeNetwork("c")}, [])
    assert spare.choice == "first"
    spare.run(X)
    assert spare.choice == "last"
    assert chain({"a": DeviceError("none"), "b": FakeNetwork("b"), "c": FakeNetwork("c")}, []).choice == "spare"
    assert chain({"only": FakeNetwork("only")}, []).choice == "first", "what was asked for is no last resort"


def test_a_turn_settles_when_it_ends_and_never_while_a_device_opens() -> None:
    """The self-test's turn does not settle the opening that a request's turn still waits for."""
    told: list[str] = []
    opens, may_open = threading.Event(), threading.Event()

    def load(device: str | None) -> FakeNetwork:
        if device == "fpga":
            return FakeNetwork(device, raises(DeviceError("device lost")))
        opens.set()
        assert may_open.wait(20)
        told.append("opened")
        return FakeNetwork(device)

    spare = Failover(load, ("fpga", "cpu"), timeout_s=5.0, on_settled=lambda: told.append("settled"))
    assert told == [], "opened, and not yet asked the known answer"
    spare.set_golden(None)
    told.clear()
    request = threading.Thread(target=spare.run, args=(X,))
    request.start()
    assert opens.wait(20)
    test = threading.Thread(target=spare.self_test)
    test.start()
    test.join(0.2)
    assert told == []
    may_open.set()
    request.join(20)
    test.join(20)
    assert told == ["opened", "settled", "settled"]


def test_a_chain_without_a_device_settles_too() -> None:
    told: list[str] = []

    def load(device: str | None) -> FakeNetwork:
        raise DeviceError("device lost")

    with pytest.raises(NoDeviceError):
        Failover(load, ("fpga",), timeout_s=5.0, on_settled=lambda: told.append("settled"))
    assert told == ["settled"]


def test_a_call_that_hangs_is_given_up() -> None:
    seen: list[Failure] = []
    release = threading.Event()
    hanging = FakeNetwork("fpga", lambda inputs: release.wait(20) and None)
    spare = chain({"fpga": hanging, "cpu": FakeNetwork("cpu")}, seen, timeout_s=0.1)
    began = time.monotonic()
    outputs, _, description = spare.run(X)
    assert time.monotonic() - began < 2
    assert (description["device"], seen[0].cause) == ("cpu", "timeout")
    np.testing.assert_array_equal(outputs["scores"], Y)
    assert not hanging.closed, "closing a device that hangs would hang too"
    release.set()


def test_a_wrong_answer_takes_the_device_out() -> None:
    seen: list[Failure] = []
    flipped = FakeNetwork("fpga", lambda inputs: {"scores": Y + 1})
    spare = chain({"fpga": flipped, "cpu": FakeNetwork("cpu")}, seen)
    spare.set_golden(golden())
    assert (spare.device, seen[0].cause) == ("cpu", "wrong_answer")


def test_one_flipped_bit_in_the_integers_is_found() -> None:
    flipped = X["images"].astype(np.uint8)
    flipped[1, 2] ^= 1
    assert "1 of 6 integers differ" in str(golden().difference({"scores": Y}, flipped))
    assert golden().difference({"scores": Y}, X["images"].astype(np.uint8)) is None


def test_the_self_test_finds_a_device_that_turns_bad() -> None:
    seen: list[Failure] = []
    broken: list[bool] = []
    turning = FakeNetwork("fpga", lambda inputs: {"scores": Y * 2} if broken else None)
    spare = chain({"fpga": turning, "cpu": FakeNetwork("cpu")}, seen)
    spare.set_golden(golden())
    assert spare.self_test() is None
    broken.append(True)
    assert "off by" in str(spare.self_test())
    assert spare.device == "cpu"


def test_a_request_at_fault_costs_no_device() -> None:
    seen: list[Failure] = []
    poison = {"images": np.full((1, 3), 9, np.float32)}
    network = FakeNetwork("fpga", raises(RuntimeError("boom"), lambda inputs: len(inputs["images"]) == 1))
    spare = chain({"fpga": network, "cpu": FakeNetwork("cpu")}, seen)
    spare.set_golden(golden())
    with pytest.raises(RequestFailedError, match="boom"):
        spare.run(poison)
    assert spare.device == "fpga"
    assert not seen
    assert spare.run(X)[2]["device"] == "fpga"


def test_input_errors_are_the_callers() -> None:
    seen: list[Failure] = []
    network = FakeNetwork("fpga", raises(InputError("input 'images': ...")))
    with pytest.raises(InputError):
        chain({"fpga": network, "cpu": FakeNetwork("cpu")}, seen).run(X)
    assert not seen


def test_without_a_device_left_the_error_tells_what_was_tried() -> None:
    seen: list[Failure] = []
    spare = chain({"fpga": FakeNetwork("fpga", raises(DeviceError("lost"))), "cpu": DeviceError("no driver")}, seen)
    for _ in range(3):
        with pytest.raises(NoDeviceError) as caught:
            spare.run(X)
        assert str(caught.value) == "[fpga:no-device] no device is left (fpga: lost; cpu: no driver)", (
            "it does not grow"
        )
    with pytest.raises(NoDeviceError):
        spare.set_golden(Golden(X, {}))
    assert [failure.device for failure in seen] == ["fpga", "cpu"]


def test_a_faulty_model_is_not_tried_on_every_device() -> None:
    seen: list[Failure] = []
    with pytest.raises(ModelError, match="Sigmoid"):
        chain({"fpga": ModelError("unsupported", operator="Sigmoid"), "cpu": FakeNetwork("cpu")}, seen)
    assert not seen


class Meeting:
    """Calls of a device meet in it: all are under way at once, and go on together."""

    def __init__(self, calls: int = 2) -> None:
        self.barrier = threading.Barrier(calls)
        self.open = True

    def wait(self) -> None:
        if self.open:
            self.barrier.wait(20)


def together(spare: Failover, *inputs: Any) -> list[Any]:
    """What each of them answers, or raises, when all are asked at once."""
    results: list[Any] = [None] * len(inputs)

    def ask(place: int) -> None:
        try:
            results[place] = spare.run(inputs[place])
        except Exception as error:  # noqa: BLE001 - what it is, is what is tested
            results[place] = error

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return results


def pair() -> tuple[dict[str, Any], dict[str, Any]]:
    return {"images": X["images"]}, {"images": X["images"] + 1}


def test_two_inferences_are_under_way_at_once() -> None:
    meeting, inputs = Meeting(), pair()
    spare = chain({"fpga": FakeNetwork("fpga", lambda inputs: meeting.wait())}, [])
    spare.set_golden(None)
    for result, given in zip(together(spare, *inputs), inputs, strict=True):
        np.testing.assert_array_equal(result[0]["scores"], given["images"].sum(axis=1, keepdims=True))


@pytest.mark.parametrize("golden_answers", [True, False])
def test_what_is_under_way_on_a_device_that_dies_is_repeated_on_the_next(golden_answers: bool) -> None:
    seen: list[Failure] = []
    meeting, inputs = Meeting(), pair()
    dead: list[bool] = []

    def die(inputs: Any) -> None:
        if dead:
            meeting.wait()
            meeting.open = False
            raise DeviceError("its process ended")

    spare = chain({"fpga": FakeNetwork("fpga", die), "cpu": FakeNetwork("cpu")}, seen)
    spare.set_golden(golden() if golden_answers else None)
    dead.append(True)
    for result, given in zip(together(spare, *inputs), inputs, strict=True):
        np.testing.assert_array_equal(result[0]["scores"], given["images"].sum(axis=1, keepdims=True))
        assert result[2]["device"] == "cpu"
    assert [(f.device, f.cause) for f in seen] == [("fpga", "lost")], "it is taken out once"


def test_nobody_waits_twice_for_a_device_that_hangs() -> None:
    """The first call to be given up takes the other with it, which has just begun."""
    seen: list[Failure] = []
    release, begun = threading.Event(), threading.Semaphore(0)

    def hang(inputs: Any) -> None:
        begun.release()
        release.wait(60)

    spare = chain({"fpga": FakeNetwork("fpga", hang), "cpu": FakeNetwork("cpu")}, seen, timeout_s=30.0)
    spare.set_golden(None)
    inputs = pair()
    given_up = threading.Thread(target=lambda: results.extend(together(spare, *inputs)))
    results: list[Any] = []
    given_up.start()
    for _ in inputs:
        assert begun.acquire(timeout=20)
    used = spare._used
    assert used is not None
    with spare._turn():
        spare._take_out(TimeoutError("the device gave no answer in 30 s"))
    given_up.join(20)
    assert not given_up.is_alive(), "neither waits for its own 30 s"
    assert [result[2]["device"] for result in results] == ["cpu", "cpu"]
    assert [(f.device, f.cause) for f in seen] == [("fpga", "timeout")]
    with pytest.raises(TakenOutError):
        used.threads.call(used.network.run_timed, X, 30.0)
    release.set()


def test_an_answer_of_a_device_that_was_taken_out_meanwhile_is_not_given() -> None:
    """It computes while the self-test finds its device wrong, and would be wrong itself."""
    seen: list[Failure] = []
    begun, tested = threading.Event(), threading.Event()
    broken: list[bool] = []

    def turn_bad(inputs: Any) -> Any:
        if not broken:
            return None
        if inputs["images"] is not X["images"]:
            begun.set()
            tested.wait(20)
        return {"scores": inputs["images"].sum(axis=1, keepdims=True) * 2}

    spare = chain({"fpga": FakeNetwork("fpga", turn_bad), "cpu": FakeNetwork("cpu")}, seen)
    spare.set_golden(golden())
    broken.append(True)
    results: list[Any] = []
    given = {"images": X["images"] + 1}
    asking = threading.Thread(target=lambda: results.append(spare.run(given)))
    asking.start()
    assert begun.wait(20)
    assert "off by" in str(spare.self_test())
    tested.set()
    asking.join(20)
    np.testing.assert_array_equal(results[0][0]["scores"], given["images"].sum(axis=1, keepdims=True))
    assert results[0][2]["device"] == "cpu"


def test_a_request_at_fault_costs_the_other_nothing() -> None:
    seen: list[Failure] = []
    meeting = Meeting()
    poison = {"images": np.full((1, 3), 9, np.float32)}

    def fail(inputs: Any) -> None:
        if inputs["images"] is not X["images"]:
            meeting.wait()
            meeting.open = False
        if len(inputs["images"]) == 1:
            raise RuntimeError("boom")

    spare = chain({"fpga": FakeNetwork("fpga", fail), "cpu": FakeNetwork("cpu")}, seen)
    spare.set_golden(golden())
    good = {"images": X["images"] + 1}
    bad, answered = together(spare, poison, good)
    assert isinstance(bad, RequestFailedError)
    np.testing.assert_array_equal(answered[0]["scores"], good["images"].sum(axis=1, keepdims=True))
    assert (spare.device, seen) == ("fpga", [])


def test_rows_are_shared_out_in_order() -> None:
    shares = split_rows({"y": np.arange(6)}, [1, 3, 2])
    assert [share["y"].tolist() for share in shares] == [[0], [1, 2, 3], [4, 5]]
    for other in (np.arange(5), np.array(1.0)):
        with pytest.raises(ModelError, match="output 'z': 6 rows are expected"):
            split_rows({"y": np.arange(6), "z": other}, [1, 3, 2])
