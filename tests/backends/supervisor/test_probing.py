"""Judging a model by its known answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from tests.backends.supervisor.conftest import Clock, health, table
from triton_server.errors import ControlError
from triton_server.protocol import Code, coded
from triton_server.supervisor.limits import Limits
from triton_server.supervisor.models import ModelHealth, ModelState, ModelTable
from triton_server.supervisor.probe import Answer, KnownAnswer
from triton_server.supervisor.probing import Callees, Prober, Work
from triton_server.supervisor.restarts import Restarts

LIMITS = Limits(slow=0.5, hung=2.0, hung_at_work=5.0)
RIGHT, OFF = Answer(True, "equal"), Answer(False, "off by 1")


@dataclass
class Server:
    """Answers as it is told, and takes so much time for it."""

    clock: Clock
    reply: Answer | Exception | Callable[[], Answer] = RIGHT
    takes_s: float = 0.0
    done: Work = field(default_factory=lambda: Work(0, 0.0))
    does: Work = field(default_factory=lambda: Work(0, 0.0))
    """What is done while it is asked."""
    ended: bool = False
    loaded: bool = True
    unloaded: list[str] = field(default_factory=list)
    faults: list[BaseException] = field(default_factory=list)

    def ask(self, known: KnownAnswer, timeout_s: float) -> Answer:
        self.clock.now += self.takes_s
        self.done = Work(self.done.answers + self.does.answers, self.done.cpu_s + self.does.cpu_s)
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply() if callable(self.reply) else self.reply

    def prober(self, models: ModelTable, restarts: Restarts, limits: Limits = LIMITS) -> Prober:
        callees = Callees(
            self.ask,
            lambda _: self.done,
            lambda _: self.ended,
            lambda _: self.loaded,
            self.unloaded.append,
            self.faults.append,
        )
        return Prober(models, restarts, limits, callees, self.clock)


@pytest.fixture
def server(clock: Clock) -> Server:
    return Server(clock)


@pytest.fixture
def model() -> ModelHealth:
    return health()


@pytest.fixture
def prober(server: Server, model: ModelHealth, restarts: Restarts) -> Prober:
    return server.prober(table(model), restarts)


@pytest.mark.parametrize(
    ("reply", "takes_s", "state", "cause"),
    [
        (RIGHT, 0.0, ModelState.SERVING, None),
        (RIGHT, 0.6, ModelState.SLOW, None),
        (ControlError("Exceeds maximum queue size", 503), 0.0, ModelState.BUSY, None),
        (OFF, 0.0, ModelState.WRONG, None),
        (ControlError("unexpected RuntimeError", 500), 0.0, ModelState.WRONG, None),
        (ControlError("Stub process 'tiny_0' is not healthy.", 500), 0.0, ModelState.HUNG, "hung"),
        (ControlError(coded(Code.NO_DEVICE, "no device is left (cpu: lost)"), 503), 0.0, ModelState.LOST, None),
        (ControlError("queue 'no device is left' is full", 503), 0.0, ModelState.BUSY, None),
        (TimeoutError("timed out"), 2.0, ModelState.HUNG, "hung"),
        (ConnectionResetError("reset"), 0.0, ModelState.HUNG, "hung"),
    ],
    ids=["serving", "slow", "busy", "wrong", "error", "given up", "lost", "busy in odd words", "hung", "reset"],
)
def test_states_are_told_apart(
    server: Server, prober: Prober, model: ModelHealth, restarts: Restarts, reply: Answer | Exception,
    takes_s: float, state: ModelState, cause: str | None,
) -> None:  # fmt: skip
    server.reply, server.takes_s = reply, takes_s
    prober.probe()
    assert model.state is state
    assert [request.cause for request in restarts.requests] == ([cause] if cause else [])


def test_a_fault_of_the_probe_is_told_and_the_model_counts_as_unknown(
    server: Server, prober: Prober, model: ModelHealth, restarts: Restarts
) -> None:
    """It dies of nothing, so no model stays "serving" that nobody asks."""
    prober.probe()
    assert model.state is ModelState.SERVING
    server.reply = KeyError("outputs")
    prober.probe()
    assert (model.state, model.detail) == (ModelState.UNKNOWN, "the probe failed: KeyError: 'outputs'")
    assert not model.state.serves
    assert [str(fault) for fault in server.faults] == ["'outputs'"]
    server.reply = RIGHT
    prober.probe()
    assert model.state is ModelState.SERVING


def test_an_answer_without_end_is_none_and_is_not_asked_for_twice(clock: Clock, restarts: Restarts) -> None:
    release, calls = threading.Event(), []

    def drip() -> Answer:
        calls.append(threading.current_thread())
        release.wait(20)
        return RIGHT

    dripping, other = health("dripping"), health("other")
    server = Server(clock)
    replies = {"dripping": drip, "other": lambda: RIGHT}
    callees = Callees(
        lambda known, _: replies[known.model](), lambda _: Work(0, 0.0), lambda _: False, lambda _: True,
        server.unloaded.append,
    )  # fmt: skip
    prober = Prober(table(dripping, other), restarts, Limits(hung=-0.8), callees, clock)
    prober.probe()
    prober.probe()
    assert (dripping.state, other.state) == (ModelState.HUNG, ModelState.SERVING)
    assert len(calls) == 1
    assert [request.cause for request in restarts.requests] == ["hung"]
    release.set()
    calls[0].join(20)
    prober.probe()
    assert dripping.state is ModelState.SERVING


def test_a_silence_that_two_notice_is_judged_once(clock: Clock, model: ModelHealth, restarts: Restarts) -> None:
    """After a pause of the whole machine both whoever asks and whoever waits for that find that it took too long."""
    looked: list[str] = []
    both = threading.Event()
    model.state = ModelState.SERVING  # or what it did before would be looked at, too

    def silent(*_: object) -> Answer:
        raise TimeoutError("timed out")

    def work(_: ModelHealth) -> Work:
        looked.append(threading.current_thread().name)
        if len(looked) == 1:
            both.wait(1.0)  # until the other has come so far, too
        else:
            both.set()
        return Work(5, 0.0)

    callees = Callees(silent, work, lambda _: False, lambda _: True, [].append)
    prober = Prober(table(model), restarts, Limits(hung=-0.8), callees, clock)
    prober.probe()
    for thread in threading.enumerate():
        if thread.name == "probe tiny version 1":
            thread.join(5)
    assert looked == ["probe tiny version 1"]
    assert model.state is ModelState.SLOW
    assert not restarts.requests


def test_one_wrong_answer_is_noted_and_two_are_acted_on(server: Server, prober: Prober, restarts: Restarts) -> None:
    for reply, requests in ((OFF, []), (RIGHT, []), (OFF, []), (OFF, ["wrong"])):
        server.reply = reply
        prober.probe()
        assert [request.cause for request in restarts.requests] == requests


def test_a_model_that_stays_wrong_is_unloaded(
    server: Server, model: ModelHealth, restarts: Restarts, clock: Clock
) -> None:  # fmt: skip
    models = table(model, health("other"))
    server.reply = lambda: OFF
    prober = server.prober(models, restarts)
    for _ in range(2):
        prober.probe([model])
        prober.probe([model])
        request = restarts.requests[0]
        assert request.cause == "wrong"
        restarts.went_down(request)
        restarts.came_up(request)
    assert not server.unloaded
    prober.probe([model])
    prober.probe([model])
    assert server.unloaded == ["tiny"]
    assert not restarts.requests
    assert list(models.supervised) == [("other", "1")]
    assert models.refused["tiny"].startswith("it is wrong after 2 restarts, too, and was unloaded: ")


def test_what_cannot_be_asked_is_put_in_quarantine(server: Server, model: ModelHealth, restarts: Restarts) -> None:
    models = table(model)
    server.reply = ControlError("expected a sequence id", 400)
    server.prober(models, restarts).probe()
    assert not models.supervised
    assert models.refused == {"tiny": "its known answer cannot be asked: expected a sequence id"}
    assert not restarts.requests


def test_silence_at_work_is_slow_for_a_while(
    server: Server, prober: Prober, model: ModelHealth, restarts: Restarts, clock: Clock
) -> None:
    model.progress_at = clock.now
    server.reply, server.takes_s = TimeoutError("timed out"), 2.0
    server.does = Work(0, 1.0)
    for state in (ModelState.SLOW, ModelState.SLOW, ModelState.HUNG):
        prober.probe()
        assert model.state is state
    assert [request.cause for request in restarts.requests] == ["hung"]


def test_what_was_done_before_is_no_sign_of_life(
    server: Server, prober: Prober, model: ModelHealth, restarts: Restarts
) -> None:  # fmt: skip
    """A model was "slow", and ready, whose instance had died of the first question: it had worked at its start."""
    server.reply, server.takes_s, server.done = TimeoutError("timed out"), 2.0, Work(1, 3.0)
    prober.probe()
    assert model.state is ModelState.HUNG
    assert [request.cause for request in restarts.requests] == ["hung"]


@pytest.mark.parametrize(
    ("reply", "takes_s"),
    [
        (TimeoutError("timed out"), 2.0),
        (ConnectionResetError("reset"), 0.0),
        (ControlError("Stub process 'tiny_0' is not healthy.", 500), 0.0),
    ],
    ids=["timed out", "reset", "given up"],
)
def test_a_model_whose_process_has_ended_is_dead_and_never_at_work(
    server: Server, prober: Prober, model: ModelHealth, restarts: Restarts, reply: Exception, takes_s: float
) -> None:  # fmt: skip
    """Whoever sees it first, the watch of the processes or this one, tells the same cause."""
    server.reply, server.takes_s, server.does, server.ended = reply, takes_s, Work(3, 2.0), True
    prober.probe()
    assert model.state is ModelState.HUNG
    assert [(request.cause, request.about) for request in restarts.requests] == [("dead", "tiny")]


def test_nobody_waits_for_an_answer_that_a_restart_makes_worthless(clock: Clock, restarts: Restarts) -> None:
    """And the server that comes up is asked anew, though the answer of the one before is still awaited."""
    asked, release = threading.Semaphore(0), threading.Event()
    replies = [lambda: release.wait(20) and RIGHT, lambda: RIGHT]

    def ask(known: KnownAnswer, _: float) -> Answer:
        asked.release()
        return replies.pop(0)()

    model = health()
    callees = Callees(ask, lambda _: Work(0, 0.0), lambda _: False, lambda _: True, [].append)
    prober = Prober(table(model), restarts, Limits(hung=60.0), callees, clock)
    probing = threading.Thread(target=prober.probe)
    probing.start()
    assert asked.acquire(timeout=10)
    restarts.ask("dead", "the stub of other_0 has ended", restarts.generation)
    probing.join(10)
    assert not probing.is_alive()
    assert model.state is ModelState.UNKNOWN
    restarts.went_down(restarts.requests[0])
    restarts.came_up(restarts.requests[0])
    prober.probe()
    assert model.state is ModelState.SERVING
    release.set()


def test_other_answers_are_progress(
    server: Server, prober: Prober, model: ModelHealth, restarts: Restarts, clock: Clock
) -> None:  # fmt: skip
    server.reply, server.takes_s = TimeoutError("timed out"), 2.0
    server.does = Work(3, 0.0)
    for _ in range(3):
        prober.probe()
        assert model.state is ModelState.SLOW
    assert not restarts.requests


def test_what_was_unloaded_on_purpose_is_forgotten(server: Server, model: ModelHealth, restarts: Restarts) -> None:
    models = table(model)
    server.reply, server.loaded = TimeoutError("timed out"), False
    server.prober(models, restarts).probe()
    assert not models.supervised
    assert not restarts.requests


@pytest.mark.parametrize("reply", [TimeoutError("timed out"), OFF, ControlError("is not healthy", 500)])
def test_a_probe_of_the_server_before_says_nothing_of_the_fresh_one(
    server: Server, prober: Prober, model: ModelHealth, restarts: Restarts, reply: Answer | Exception
) -> None:
    """It was asked, the server was restarted, and then the old news came."""

    def late() -> Answer:
        restarts.went_down()
        restarts.came_up()
        if isinstance(reply, Exception):
            raise reply
        return reply

    model.state = ModelState.SERVING
    model.wrong_in_a_row = 1
    server.reply = late
    prober.probe()
    assert (model.state, model.wrong_in_a_row) == (ModelState.SERVING, 1)
    assert not restarts.requests
