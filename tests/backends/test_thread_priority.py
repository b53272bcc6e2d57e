"""Finding the server's thread of an instance: what stands against it leaves everything as it was."""

from __future__ import annotations

import os

import pytest

from triton_server.workarounds import thread_priority
from triton_server.workarounds.thread_priority import ATTEMPTS, ThreadPriority


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """What waits in the shared memory, at one look after the other."""
    looks: list[set[int]] = []
    monkeypatch.setattr(thread_priority, "waiting", lambda *_: looks.pop(0))
    return looks


@pytest.fixture
def preferred(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The threads that were made to go first."""
    threads: list[int] = []
    monkeypatch.setattr(os, "sched_setscheduler", lambda thread, *_: threads.append(thread))
    return threads


def test_the_one_that_waits_only_while_the_stub_executes(found: list[set[int]], preferred: list[int]) -> None:
    found += [{1, 2}, {1, 2, 3}]
    one = ThreadPriority()
    assert one.sought
    assert one.seek() == 3
    assert preferred == [3]
    assert not one.sought


def test_several_or_none_are_looked_at_again_and_then_left_alone(found: list[set[int]], preferred: list[int]) -> None:
    found += [{1}, {1, 2, 3}, *([{1}] * (ATTEMPTS - 1))]
    one = ThreadPriority()
    for _ in range(ATTEMPTS):
        assert one.sought
        assert one.seek() is None
    assert not one.sought
    assert not preferred


def test_without_the_right_to_look_nothing_is_sought(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> set[int]:
        raise PermissionError

    monkeypatch.setattr(thread_priority, "waiting", refuse)
    assert not ThreadPriority().sought


def test_a_stub_that_is_called_otherwise_seeks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_priority, "_REGION_ARGUMENT", 1000)
    assert not ThreadPriority().sought


def test_without_the_right_to_go_first_it_is_given_up(found: list[set[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    found += [set(), {7}]
    one = ThreadPriority()
    assert one.seek() is None
    assert not one.sought


def test_nobody_waits_in_memory_that_is_not_there() -> None:
    assert thread_priority.waiting(os.getpid(), "no-such-region") == set()
