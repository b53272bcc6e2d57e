"""Threads that nobody watches."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.backends.supervisor.conftest import Clock
from triton_server.supervisor.threads import KeptThreads, ThreadState


@pytest.fixture
def stopped() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def rounds(*results: BaseException | None) -> tuple[threading.Semaphore, list[threading.Event], object]:
    """Work whose rounds end as given, each when the test lets it."""
    allowed = threading.Semaphore(0)
    began = [threading.Event() for _ in range(len(results) + 1)]
    ends = iter([*enumerate(results), (len(results), None)])

    def work() -> None:
        number, result = next(ends, (len(results), None))
        began[number].set()
        assert allowed.acquire(timeout=20)
        if result is not None:
            raise result

    return allowed, began, work


@pytest.mark.parametrize("fault", [KeyError("outputs"), MemoryError(), SystemExit(1), RecursionError("deep")])
def test_a_fault_is_told_and_the_work_goes_on(stopped: threading.Event, fault: BaseException) -> None:
    threads = KeptThreads(stopped, pause_s=0.0)
    allowed, began, work = rounds(None, fault, None)
    threads.start("prober", work)  # type: ignore[arg-type]
    for number, state in enumerate([ThreadState.RUNNING, ThreadState.RUNNING, ThreadState.FAILED, ThreadState.RUNNING]):
        assert began[number].wait(20)
        assert threads.state("prober") is state
        assert threads.unsound == ([] if state is ThreadState.RUNNING else ["prober: failed"])
        allowed.release()
    assert threads.beats
    (row,) = threads.rows()
    assert (row["faults"], row["last_fault"]) == (1, f"{type(fault).__name__}: {fault}")
    stopped.set()
    allowed.release(10)
    threads.join(20)


def test_a_round_that_does_not_end_is_told(stopped: threading.Event, clock: Clock) -> None:
    threads = KeptThreads(stopped, clock=clock)
    allowed, began, work = rounds(None)
    threads.start("prober", work, overdue_s=30.0)  # type: ignore[arg-type]
    assert began[0].wait(20)
    clock.now += 29.0
    assert threads.beats
    clock.now += 2.0
    assert not threads.beats
    assert threads.unsound == ["prober: overdue"]
    allowed.release()
    assert began[1].wait(20)
    assert threads.beats
    stopped.set()
    allowed.release(10)
    threads.join(20)


def test_threads_that_end_when_they_are_told_to_are_sound(stopped: threading.Event) -> None:
    threads = KeptThreads(stopped)
    threads.start("prober", lambda: stopped.wait(20))
    stopped.set()
    threads.join(20)
    assert threads.beats
    assert not threads.unsound
