"""One answer of each batch is sent after the batch."""

from __future__ import annotations

from typing import Any

import pytest

from triton_server.workarounds.late_response import LateResponse

FINAL = 1


class Request:
    """A request, and its response sender."""

    def __init__(self, sent: list[Any], *, closed: bool = False) -> None:
        self.sent, self.closed = sent, closed

    def get_response_sender(self) -> Request:
        return self

    def send(self, response: Any, flags: int) -> None:
        if self.closed:
            raise RuntimeError("the sender is closed")
        self.sent.append((response, flags))


@pytest.mark.parametrize("count", [1, 3])
def test_the_last_answer_is_kept_and_sent(count: int) -> None:
    sent: list[Any] = []
    late = LateResponse(FINAL, pytest.fail)
    answers = list(range(count))
    assert late.keep_last([Request(sent) for _ in answers], answers) == [*answers[:-1], None]
    late.close()
    assert sent == [(count - 1, FINAL)]


def test_what_cannot_be_sent_is_told_and_stops_nothing() -> None:
    sent: list[Any] = []
    failures: list[Exception] = []
    late = LateResponse(FINAL, failures.append)
    late.keep_last([Request(sent, closed=True)], ["lost"])
    late.keep_last([Request(sent)], ["next"])
    late.close()
    assert sent == [("next", FINAL)]
    assert "closed" in str(failures[0])
