"""The thread beside an instance's requests."""

from __future__ import annotations

import threading

import pytest

from triton_server.plugin.housekeeping import FAULTS, Housekeeping


@pytest.mark.parametrize("fault", [KeyError("outputs"), SystemExit(1), MemoryError()])
def test_a_fault_is_told_and_the_next_round_is_tried(fault: BaseException) -> None:
    rounds: list[int] = []
    failures: list[BaseException] = []
    done = threading.Event()

    def work() -> None:
        rounds.append(len(rounds))
        if len(rounds) % FAULTS:  # never so many in a row
            raise fault
        if len(rounds) == 4 * FAULTS:
            done.set()

    housekeeping = Housekeeping(work, failures.append, lambda: pytest.fail("given up"), period_s=0.001)
    assert done.wait(20)
    housekeeping.close()
    assert failures[: 4 * (FAULTS - 1)] == [fault] * (4 * (FAULTS - 1))


def test_faults_without_end_end_the_instance() -> None:
    failures: list[BaseException] = []
    given_up: list[int] = []
    done = threading.Event()

    def work() -> None:
        raise KeyError("outputs")

    def failed(error: BaseException) -> None:
        failures.append(error)
        raise OSError("and the log cannot be written")

    def give_up() -> None:
        given_up.append(len(failures))
        done.set()

    housekeeping = Housekeeping(work, failed, give_up, period_s=0.001)
    assert done.wait(20)
    housekeeping.close()
    assert given_up == [FAULTS], "once, and for its faults in a row"
