"""The next batch is taken while one computes, and every request has its own answer, once."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from triton_server.plugin.busy_time import BusyTime
from triton_server.plugin.overlap import ALONE_AFTER, LOOK_EVERY, Overlap

FINAL = 1
WAIT_S = 20


class Request:
    """A request, and its response sender."""

    def __init__(self, name: str, *, closed: bool = False) -> None:
        self.name, self.closed = name, closed
        self.sent: list[tuple[Any, int]] = []

    def get_response_sender(self) -> Request:
        return self

    def send(self, response: Any, flags: int) -> None:
        if self.closed:
            raise RuntimeError("the sender is closed")
        self.sent.append((response, flags))


class Device:
    """Answers a batch when it is told to."""

    def __init__(self) -> None:
        self.began: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
        self.may_end = threading.Semaphore(0)

    def answer(self, requests: Sequence[Request]) -> list[str]:
        self.began.put([request.name for request in requests])
        assert self.may_end.acquire(timeout=WAIT_S)
        return [f"answer to {request.name}" for request in requests]


def batch(*names: str) -> list[Request]:
    return [Request(name) for name in names]


def test_one_batch_more_is_taken_while_one_computes() -> None:
    device = Device()
    overlap = Overlap(device.answer, FINAL, pytest.fail)
    first, second, third = batch("a", "b"), batch("c"), batch("d", "e", "f")
    overlap.take(first)  # returns at once: Triton may bring the next
    assert device.began.get(timeout=WAIT_S) == ["a", "b"]
    taken = threading.Event()

    def take() -> None:
        overlap.take(second)
        taken.set()
        overlap.take(third)

    taking = threading.Thread(target=take)
    taking.start()
    assert device.began.get(timeout=WAIT_S) == ["c"]  # it is prepared while the first computes
    assert not taken.is_set()  # and what comes now waits in Triton, where it becomes a batch
    assert not any(request.sent for request in (*first, *second))
    device.may_end.release()
    assert taken.wait(WAIT_S)
    device.may_end.release(2)
    taking.join(WAIT_S)
    overlap.close()
    for request in (*first, *second, *third):
        assert request.sent == [(f"answer to {request.name}", FINAL)]


def test_what_cannot_be_sent_is_told_and_stops_nothing() -> None:
    failures: list[Exception] = []
    overlap = Overlap(lambda requests: [request.name for request in requests], FINAL, failures.append)
    lost, good, later = Request("lost", closed=True), Request("good"), Request("later")
    overlap.take([lost, good])
    overlap.take([later])
    overlap.close()
    assert [str(failure) for failure in failures] == ["the sender is closed"]
    assert (lost.sent, good.sent, later.sent) == ([], [("good", FINAL)], [("later", FINAL)])


def test_the_end_waits_for_what_was_taken() -> None:
    device = Device()
    overlap = Overlap(device.answer, FINAL, pytest.fail)
    (only,) = batch("a")
    overlap.take([only])
    device.began.get(timeout=WAIT_S)
    ending = threading.Thread(target=overlap.close)
    ending.start()
    assert not only.sent
    device.may_end.release()
    ending.join(WAIT_S)
    assert only.sent == [("answer to a", FINAL)]


def test_a_client_that_is_alone_is_answered_in_its_own_thread() -> None:
    """But now and then, and a second client is seen then: from there on the next batch is taken while one computes."""
    threads: list[threading.Thread] = []
    second = Device()
    blocked = threading.Event()

    def answer(requests: Sequence[Request]) -> list[str]:
        threads.append(threading.current_thread())
        return second.answer(requests) if blocked.is_set() else [f"answer to {request.name}" for request in requests]

    overlap = Overlap(answer, FINAL, pytest.fail)
    here = threading.current_thread()
    for number in range(1, LOOK_EVERY):
        (request,) = batch(str(number))
        answers = overlap.take([request])
        assert (answers is not None) == (number > ALONE_AFTER)
        if answers is None:
            _wait_for(lambda request=request: request.sent)  # as a client that is alone does
        else:
            assert threads[-1] is here
            assert (answers, request.sent) == ([f"answer to {number}"], [])  # Triton sends what is returned
    blocked.set()
    first, other, later = batch("first", "other", "later")
    assert overlap.take([first]) is None  # the look: it is computing
    assert second.began.get(timeout=WAIT_S) == ["first"]
    second.may_end.release(2)
    assert overlap.take([other]) is None  # who found it computing is not alone
    _wait_for(lambda: first.sent and other.sent)
    second.may_end.release()
    assert overlap.take([later]) is None
    overlap.close()
    assert [request.sent for request in (first, other, later)] == [
        [(f"answer to {name}", FINAL)] for name in ("first", "other", "later")
    ]


def _wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_time_that_calls_share_is_counted_once() -> None:
    now = 10.0
    busy = BusyTime(lambda: now)
    assert busy.add(2.0) == 2.0  # 8 to 10
    now = 11.0
    assert busy.add(2.5) == 1.0  # 8.5 to 11, of which 8.5 to 10 is counted
    now = 11.0
    assert busy.add(0.5) == 0.0
    now = 20.0
    assert busy.add(3.0) == 3.0  # nothing was under way from 11 to 17
