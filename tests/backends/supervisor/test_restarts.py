"""The mailbox of requests for a restart."""

from __future__ import annotations

import threading

from tests.backends.supervisor.conftest import Clock
from triton_server.supervisor.restarts import BACKOFF_S, CALM_S, Request, Restarts


def test_old_news_is_dropped(restarts: Restarts) -> None:
    before = restarts.generation
    restarts.went_down()
    restarts.ask("dead", "a stub, while the server is away", before)
    restarts.came_up()
    restarts.ask("dead", "a stub of the server before", before)
    assert not restarts.requests
    assert not restarts.is_present(before)
    restarts.ask("dead", "a stub", restarts.generation)
    assert restarts.requests == [Request("dead", "a stub")]
    restarts.came_up()
    assert not restarts.requests, "done with the first"


def test_who_waits_is_woken_by_a_request_and_by_the_end(restarts: Restarts) -> None:
    heard: list[Request | None] = []

    def listen() -> None:
        while (request := restarts.wait()) is not None:
            heard.append(request)
            restarts.went_down(request)
            restarts.came_up(request)
            done.set()
        heard.append(None)

    done = threading.Event()
    thread = threading.Thread(target=listen)
    thread.start()
    restarts.ask("dead", "a stub", restarts.generation)
    assert done.wait(20)
    restarts.stop()
    thread.join(20)
    assert heard == [Request("dead", "a stub"), None]
    restarts.ask("dead", "a stub", restarts.generation)
    assert not restarts.requests, "nobody restarts any more"


def test_restarts_are_counted_and_told_with_their_outage(restarts: Restarts, clock: Clock) -> None:
    for cause, outage_s in (("dead", 1.5), ("hung", 2.0), ("dead", 0.5)):
        request = Request(cause, "why")
        restarts.went_down(request)
        assert not restarts.up
        clock.now += outage_s
        assert restarts.came_up(request) == outage_s
        assert restarts.up
    assert restarts.counts == {"dead": 2, "hung": 1}
    assert [(one.cause, one.outage_s) for one in restarts.done] == [("dead", 1.5), ("hung", 2.0), ("dead", 0.5)]
    assert restarts.done[-1].at == clock.now


def test_a_series_waits_longer_and_longer_until_there_was_calm(restarts: Restarts, clock: Clock) -> None:
    request = Request("dead", "why")
    pauses = []
    for _ in range(len(BACKOFF_S) + 2):
        restarts.went_down(request)
        pauses.append(restarts.pause())
        restarts.came_up(request)
        clock.now += 1.0
    assert pauses == [*BACKOFF_S, BACKOFF_S[-1], BACKOFF_S[-1]]
    clock.now += CALM_S
    restarts.went_down(request)
    assert restarts.pause() == BACKOFF_S[0]
