"""What the client does when servers fail, on fakes that fail as told."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from sonic_client import (
    AsyncClient,
    AuthenticationError,
    BadReplyError,
    Client,
    ConfigurationError,
    DeadlineError,
    InvalidRequestError,
    JetError,
    ModelNotFoundError,
    RequestError,
    Retry,
    ServerFaultError,
    ServerUnavailableError,
)
from sonic_client.core.faults import Fault
from sonic_client.core.in_flight import InFlight
from sonic_client.core.transports.grpc import Lines
from tests.clients.fake_server import Behaviour, FakeTriton, answer_to, score, serving
from tests.clients.jets import random_jets

FAST = Retry(base=0.005, cap=0.02)
INPUT = {"constituents": np.random.default_rng(0).normal(size=(1, 200, 4)).astype(np.float32)}


def failing(times: int, code: grpc.StatusCode, words: str = "told to") -> Behaviour:
    def behave(number: int, request: Any, context: grpc.ServicerContext) -> None:
        if number <= times:
            context.abort(code, words)

    return behave


def test_transient_failures_are_retried() -> None:
    fake = FakeTriton(behaviour=failing(3, grpc.StatusCode.UNAVAILABLE))
    with serving(fake) as (_, address), Client(address, "top_tagger", retry=FAST, eject_for=0.01) as client:
        reply = client.infer(INPUT)
        assert reply.attempts == 4
        assert np.array_equal(reply.outputs["probabilities"], score(INPUT["constituents"]))
        assert len({request.id for request in fake.requests}) == 1


@pytest.mark.parametrize(
    ("code", "words", "error"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "NaN at row 0", InvalidRequestError),
        (grpc.StatusCode.UNIMPLEMENTED, "no", InvalidRequestError),
        (grpc.StatusCode.UNAUTHENTICATED, "who?", AuthenticationError),
        (grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'top_tagger' is not found", ModelNotFoundError),
    ],
)
def test_what_cannot_help_is_never_repeated(code: grpc.StatusCode, words: str, error: type[RequestError]) -> None:
    fake = FakeTriton(behaviour=failing(99, code, words))
    with serving(fake) as (_, address), Client(address, "top_tagger", retry=FAST) as client:
        with pytest.raises(error, match=words[:10]) as caught:
            client.infer(INPUT, request_id="event-17")
        assert len(fake.requests) == 1
        assert caught.value.request_id == "event-17"
        assert "event-17" in str(caught.value)
        assert address in caught.value.server
        copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
        assert (type(copy), str(copy)) == (error, str(caught.value))
        assert client.statistics().failures == 1


def test_one_deadline_covers_all_attempts() -> None:
    fake = FakeTriton(behaviour=failing(10**6, grpc.StatusCode.UNAVAILABLE))
    with serving(fake) as (_, address), Client(address, "top_tagger", retry=FAST, deadline=0.5) as client:
        client.info()
        began = time.monotonic()
        with pytest.raises(ServerUnavailableError, match="told to"):
            client.infer(INPUT)
        assert time.monotonic() - began < 2.9
        assert len(fake.requests) > 2


def test_a_slow_server_is_a_deadline_and_hears_of_it() -> None:
    fake = FakeTriton(delay=5.0)
    with serving(fake) as (_, address), Client(address, "top_tagger", deadline=0.2) as client:
        with pytest.raises(DeadlineError):
            client.infer(INPUT)
        wait_for(lambda: fake.cancelled == 1)


def test_cancelling_reaches_the_server() -> None:
    fake = FakeTriton(delay=5.0)
    with serving(fake) as (_, address), Client(address, "top_tagger") as client:
        future = client.submit(INPUT)
        wait_for(lambda: len(fake.requests) == 1)
        assert future.cancel()
        with pytest.raises(CancelledError):
            future.result(1.0)
        wait_for(lambda: fake.cancelled == 1)
        fake.delay = 0.0
        assert client.infer(INPUT).attempts == 1


def test_an_attempt_that_takes_too_long_is_repeated() -> None:
    def slow_first(number: int, request: Any, context: grpc.ServicerContext) -> None:
        if number == 1:
            time.sleep(1.0)

    fake = FakeTriton(behaviour=slow_first)
    with (
        serving(fake) as (_, address),
        Client(address, "top_tagger", attempt_timeout=0.2, deadline=5, retry=FAST) as client,
    ):
        assert client.infer(INPUT).attempts == 2


LIES = {
    "lacks output": lambda n, r, c: answer_to(r, name="other"),
    "expected FP32": lambda n, r, c: answer_to(r, np.zeros((1, 3), np.float32)),
    "with 1 rows": lambda n, r, c: answer_to(r, np.zeros((2, 2), np.float32)),
    "cannot be decoded": lambda n, r, c: _truncated(r),
}


def _truncated(request: Any) -> Any:
    answer = answer_to(request)
    answer.raw_output_contents[0] = b"\0\0\0"
    return answer


@pytest.mark.parametrize("words", LIES)
def test_a_server_that_lies_is_not_believed(words: str) -> None:
    fake = FakeTriton(behaviour=LIES[words])
    with serving(fake) as (_, address), Client(address, "top_tagger", retry=FAST) as client:
        with pytest.raises(BadReplyError, match=words):
            client.infer(INPUT)
        assert len(fake.requests) == 2


def test_scores_that_are_no_numbers_are_an_error() -> None:
    fake = FakeTriton(behaviour=lambda n, r, c: answer_to(r, np.full((1, 2), np.nan, np.float32)))
    with (
        serving(fake) as (_, address),
        Client(address, "top_tagger") as client,
        pytest.raises(BadReplyError, match="NaN"),
    ):
        client.tag(random_jets(2))


def test_metadata_that_do_not_fit_are_refused() -> None:
    fake = FakeTriton(output=("probabilities", "FP32", (-1, 5)))
    with serving(fake) as (_, address), Client(address, "top_tagger") as client, pytest.raises(JetError, match="-1, 5"):
        client.tag(random_jets(2))


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "got none"),
        ({"images": INPUT["constituents"]}, "got images"),
        ({"constituents": INPUT["constituents"][:, :5]}, "expected FP32"),
        ({"constituents": INPUT["constituents"].astype(np.float64)}, "float64"),
        ({"constituents": INPUT["constituents"][:0]}, "empty"),
    ],
)
def test_wrong_inputs_never_leave(inputs: dict[str, np.ndarray], words: str) -> None:
    fake = FakeTriton()
    with serving(fake) as (_, address), Client(address, "top_tagger") as client:
        with pytest.raises(JetError, match=words):
            client.infer(inputs)
        assert not fake.requests


def test_parameters_travel_with_the_request() -> None:
    fake = FakeTriton()
    with serving(fake) as (_, address), Client(address, "top_tagger", priority=1) as client:
        given = {"event": 7, "good": True, "weight": 0.5, "run": "A"}
        client.infer(INPUT, parameters=given)
        for name, value in given.items():
            sent = fake.requests[0].parameters[name]
            assert getattr(sent, sent.WhichOneof("parameter_choice")) == value
        assert fake.requests[0].parameters["priority"].uint64_param == 1
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="parameter 'what'"):
                client.infer(INPUT, parameters={"what": None})  # type: ignore[dict-item]
        assert client.infer(INPUT).attempts == 1
        assert len(fake.requests) == 2


def test_requests_carry_an_id_and_a_trace() -> None:
    fake = FakeTriton()
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with serving(fake) as (_, address), Client(address, "top_tagger") as client:
        client.infer(INPUT, traceparent=parent, parameters={"event": 17})
        client.infer(INPUT)
    assert fake.metadata[0]["traceparent"].split("-")[1] == parent.split("-")[1]
    assert fake.metadata[0]["traceparent"] != parent
    assert fake.requests[0].parameters["event"].int64_param == 17
    assert fake.requests[0].id
    assert fake.requests[0].id != fake.requests[1].id


def test_order_and_batch_one_are_kept_with_many_in_flight() -> None:
    fake = FakeTriton(behaviour=lambda n, r, c: time.sleep(0.02 * (n % 3)))
    jets = random_jets(60, most=5)
    with serving(fake) as (_, address), Client(address, "top_tagger", max_in_flight=8) as client:
        scores = client.tag(jets)
        one_by_one = [client.tag(jet) for jet in jets[:5]]
    assert np.array_equal(np.asarray(scores)[:5], np.asarray(one_by_one))
    assert {tuple(request.inputs[0].shape) for request in fake.requests} == {(1, 200, 4)}
    assert 2 < fake.most_under_way <= 8


def test_a_slow_consumer_holds_the_source_back() -> None:
    fake = FakeTriton()
    taken = 0

    def source() -> Any:
        nonlocal taken
        while True:
            taken += 1
            yield INPUT

    with serving(fake) as (_, address), Client(address, "top_tagger", max_in_flight=4) as client:
        answers = client.stream(source())
        for _ in range(10):
            next(answers)
        time.sleep(0.1)
        assert taken <= 10 + 4
        answers.close()


def test_streaming_asynchronously_from_an_unbounded_source() -> None:
    fake = FakeTriton(behaviour=lambda n, r, c: time.sleep(0.05 if n == 1 else 0.0))

    async def scenario(address: str) -> tuple[list[str], list[str], int]:
        taken = 0

        async def source() -> Any:
            nonlocal taken
            while True:
                taken += 1
                yield INPUT

        async with AsyncClient(address, "top_tagger", max_in_flight=4) as client:
            seen = []
            for ordered in (True, False):
                ids: list[str] = []
                stream = client.stream(source(), ordered=ordered)
                async for reply in stream:
                    ids.append(reply.request_id)
                    if len(ids) == 8:
                        break
                await stream.aclose()
                seen.append(ids)
            return seen[0], seen[1], taken

    with serving(fake) as (_, address):
        ordered, unordered, taken = asyncio.run(scenario(address))
    numbers = [int(one.rpartition("-")[2]) for one in ordered]
    assert numbers == sorted(numbers)
    assert len(set(unordered)) == 8
    assert taken <= 2 * (8 + 4)


def test_acquire_and_produce() -> None:
    fake = FakeTriton()
    called: list[float] = []
    with serving(fake) as (_, address), Client(address, "top_tagger") as client:
        results = client.process(
            range(5),
            acquire=lambda event: {"constituents": INPUT["constituents"] * (event + 1)},
            produce=lambda event, reply: (event, float(reply.outputs["probabilities"][0, 1])),
        )
        assert list(results) == [
            (i, pytest.approx(float(score(INPUT["constituents"] * (i + 1))[0, 1]))) for i in range(5)
        ]
        client.submit(INPUT, callback=lambda done: called.append(done.result().timing.total_ms)).result()
        wait_for(lambda: len(called) == 1)


def test_a_failing_request_ends_the_stream_with_its_name() -> None:
    fake = FakeTriton(behaviour=lambda n, r, c: c.abort(grpc.StatusCode.INVALID_ARGUMENT, "bad") if n == 3 else None)
    with serving(fake) as (_, address), Client(address, "top_tagger", max_in_flight=1) as client:
        with pytest.raises(InvalidRequestError) as caught:
            client.tag(random_jets(10))
        assert caught.value.request_id == fake.requests[2].id


# ---- several servers


def test_the_least_busy_server_is_chosen_and_a_lost_one_avoided() -> None:
    one, two = FakeTriton(delay=0.01), FakeTriton(delay=0.01)
    with (
        serving(one) as (crashing, first),
        serving(two) as (_, second),
        Client([first, second], "top_tagger", retry=FAST, max_in_flight=8, eject_for=30) as client,
    ):
        jets = random_jets(200, most=3)
        before = client.tag(jets[:40])
        assert min(len(one.requests), len(two.requests)) >= 10
        crashing.stop(0).wait(5)
        after = client.tag(jets)
        assert np.array_equal(after[:40], before)
        states = {name: seen["state"] for name, seen in client.servers().items()}
        assert states == {f"grpc://{first}": "out", f"grpc://{second}": "ready"}


def test_an_ejected_server_comes_back() -> None:
    fake = FakeTriton()
    with serving(FakeTriton(delay=0.005)) as (_, healthy):
        with serving(fake) as (_, flaky):
            port = int(flaky.rpartition(":")[2])
            client = Client([flaky, healthy], "top_tagger", retry=FAST, eject_for=0.05)
            client.tag(random_jets(20, most=3))
        client.tag(random_jets(20, most=3))
        assert client.servers()[f"grpc://{flaky}"]["state"] == "out"
        again = FakeTriton()
        with serving(again, port):
            wait_for(lambda: client.servers()[f"grpc://{flaky}"]["state"] != "out", 10.0)
            client.tag(random_jets(40, most=3))
            assert again.requests
        client.close()


def test_a_server_that_always_breaks_is_ejected() -> None:
    broken = FakeTriton(behaviour=failing(10**6, grpc.StatusCode.INTERNAL, "Stub process 'x' is not healthy"))
    fine = FakeTriton()
    with (
        serving(broken) as (_, first),
        serving(fine) as (_, second),
        Client([first, second], "top_tagger", retry=FAST, eject_after=3, eject_for=30, max_in_flight=1) as client,
    ):
        assert len(client.tag(random_jets(50, most=3))) == 50
        assert len(broken.requests) == 3
        assert len(fine.requests) == 50


def test_only_servers_that_have_the_model_are_asked() -> None:
    without, having = FakeTriton(known=False), FakeTriton()
    with (
        serving(without) as (_, first),
        serving(having) as (_, second),
        Client([first, second], "top_tagger") as client,
    ):
        client.tag(random_jets(10, most=3))
        assert not without.requests
        assert client.servers()[f"grpc://{first}"]["state"] == "absent"


def test_a_cold_server_is_waited_for() -> None:
    fake = FakeTriton(ready=False, state="LOADING")
    with serving(fake) as (_, address), Client(address, "top_tagger", deadline=0.3, warm_up=20) as client:
        future = client.submit(INPUT)
        time.sleep(1.0)
        assert not future.done()
        fake.ready = True
        assert future.result(10).attempts == 1


def test_a_model_that_failed_to_load_is_told_at_once() -> None:
    fake = FakeTriton(ready=False, state="UNAVAILABLE", reason="Internal: node conv1 is not quantised")
    began = time.monotonic()
    with (
        serving(fake) as (_, address),
        Client(address, "top_tagger") as client,
        pytest.raises(ServerUnavailableError, match="node conv1"),
    ):
        client.infer(INPUT)
    assert time.monotonic() - began < 5


def test_nobody_there() -> None:
    with (
        Client("grpc://127.0.0.1:9/top_tagger", warm_up=0.5) as client,
        pytest.raises(ServerUnavailableError, match=r"127\.0\.0\.1:9"),
    ):
        client.tag(random_jets(1))


def test_hedging_takes_the_first_answer_and_cancels_the_other() -> None:
    slow, fast = FakeTriton(delay=3.0), FakeTriton()
    with (
        serving(slow) as (_, first),
        serving(fast) as (_, second),
        Client([first, second], "top_tagger", hedge_after=0.05) as client,
    ):
        client.info()
        for _ in range(10):
            began = time.monotonic()
            assert client.infer(INPUT).server == f"grpc://{second}"
            assert time.monotonic() - began < 2.9
        assert client.statistics().hedges == len(slow.requests)
        wait_for(lambda: slow.cancelled == len(slow.requests))


def test_a_fault_of_the_server_is_typed() -> None:
    fake = FakeTriton(behaviour=failing(99, grpc.StatusCode.INTERNAL, "device fault"))
    with (
        serving(fake) as (_, address),
        Client(address, "top_tagger", retry=Retry(0.001, 0.01, attempts=2)) as client,
        pytest.raises(ServerFaultError, match="after 2 attempts: device fault"),
    ):
        client.infer(INPUT)


# ---- tokens, settings, pickling


def test_tokens_are_sent_where_they_are_demanded(tmp_path: Any) -> None:
    fake = FakeTriton(token="s3cret")  # noqa: S106
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    with serving(fake) as (_, address):
        for token in ("s3cret", file, lambda: "s3cret"):
            with Client(address, "top_tagger", token=token) as client:
                assert len(client.tag(random_jets(2))) == 2
        for options in ({}, {"token": "wrong"}):
            with Client(address, "top_tagger", **options) as client, pytest.raises(AuthenticationError, match="token"):
                client.tag(random_jets(2))
    assert len(fake.requests) == 6


def test_tokens_do_not_travel_in_the_open() -> None:
    client = Client("grpc://192.0.2.1:8001/m", token="s3cret")  # noqa: S106
    with pytest.raises(ConfigurationError, match="unencrypted"):
        client.info()


@pytest.mark.parametrize(
    "setting",
    [
        {"deadline": 0},
        {"max_in_flight": 0},
        {"compression": "zip"},
        {"hedge_after": -1},
        {"timeout": 3},
        {"batch_size": 0},
        {"connections": 0},
        {"connections": 1.5},
        {"connections": "4"},
    ],
)
def test_settings_are_checked(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(setting))):
        Client("grpc://localhost/m", **setting)


def test_clients_are_picklable_even_in_use() -> None:
    with serving(FakeTriton()) as (_, address), Client(address, "top_tagger", deadline=7) as client:
        jets = random_jets(3)
        expected = client.tag(jets)
        copy = pickle.loads(pickle.dumps(client))  # noqa: S301
        assert copy.options == client.options
        assert np.array_equal(copy.tag(jets), expected)
        copy.close()


def test_a_closed_client_can_be_used_again() -> None:
    with serving(FakeTriton()) as (_, address):
        client = Client(address, "top_tagger")
        first = client.infer(INPUT).outputs["probabilities"]
        client.close()
        client.close()
        assert np.array_equal(client.infer(INPUT).outputs["probabilities"], first)
        client.close()


def wait_for(condition: Any, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# ---- waiting threads: after the first answer, `infer` sends from the thread that calls it


def test_a_thread_that_waits_is_retried_for_as_well() -> None:
    fake = FakeTriton()
    with serving(fake) as (_, address), Client(address, "top_tagger", retry=FAST, eject_for=0.01) as client:
        client.info()
        fake.behaviour = failing(2, grpc.StatusCode.UNAVAILABLE)
        reply = client.infer(INPUT, request_id="mine")
        assert (reply.attempts, reply.request_id) == (3, "mine")
        assert np.array_equal(reply.outputs["probabilities"], score(INPUT["constituents"]))
        fake.behaviour = lambda number, request, context: context.abort(grpc.StatusCode.INVALID_ARGUMENT, "NaN")
        with pytest.raises(InvalidRequestError, match="NaN"):
            client.infer(INPUT)
        fake.behaviour, fake.delay = None, 5.0
        began = time.monotonic()
        with pytest.raises(DeadlineError):
            client.infer(INPUT, deadline=0.2)
        assert time.monotonic() - began < 2.0
        wait_for(lambda: fake.cancelled == 1)
        totals = client.statistics()
        assert (totals.requests, totals.failures, totals.attempts) == (1, 2, 5)
        assert next(iter(client.servers().values()))["outstanding"] == 0


def test_many_threads_keep_to_the_places() -> None:
    fake = FakeTriton(delay=0.002)
    with serving(fake) as (_, address), Client(address, "top_tagger", max_in_flight=4) as client:
        client.info()
        rows = np.random.default_rng(1).normal(size=(160, 1, 200, 4)).astype(np.float32)
        with ThreadPoolExecutor(16) as pool:
            replies = list(pool.map(lambda row: client.infer({"constituents": row}), rows))
        for row, reply in zip(rows, replies, strict=True):
            assert np.array_equal(reply.outputs["probabilities"], score(row))
        assert fake.most_under_way <= 4
        totals = client.statistics()
        assert (totals.requests, totals.attempts, len(totals.latencies_ms)) == (160, 160, 160)
        assert totals.bytes_sent == rows.nbytes
        assert next(iter(client.servers().values()))["outstanding"] == 0


@pytest.fixture
def interrupts() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also where the shell that started the tests ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_ctrl_c_reaches_the_server() -> None:
    fake = FakeTriton()
    with serving(fake) as (_, address), Client(address, "top_tagger") as client:
        client.infer(INPUT)
        fake.delay = 10.0
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            client.infer(INPUT)
        wait_for(lambda: fake.cancelled == 1)
        fake.delay = 0.0
        assert client.infer(INPUT).attempts == 1
        wait_for(lambda: next(iter(client.servers().values()))["outstanding"] == 0)


def test_a_server_that_was_away_is_used_again_at_once() -> None:
    fake = FakeTriton()
    with serving(fake) as (_, address):
        client = Client(address, "top_tagger", retry=FAST, eject_for=0.05, deadline=20)
        client.infer(INPUT)
        client.infer(INPUT)
    with pytest.raises(ServerUnavailableError):
        client.infer(INPUT, deadline=0.3)
    again = FakeTriton()
    with serving(again, int(address.rpartition(":")[2])):
        for _ in range(20):
            client.infer(INPUT)
        wait_for(lambda: next(iter(client.servers().values()))["state"] == "ready")
        before = client.statistics().attempts
        for _ in range(20):
            client.infer(INPUT)
        assert client.statistics().attempts - before == 20
    client.close()


def test_a_connection_of_waiting_threads_does_not_back_off_for_the_next() -> None:
    fake = FakeTriton()
    with serving(fake) as (_, address):
        client = Client(address, "top_tagger", retry=Retry(attempts=1), eject_after=99)
        client.infer(INPUT)
    lost = []
    for _ in range(6):  # each of them doubles gRPC's back-off
        with pytest.raises(ServerUnavailableError) as caught:
            client.infer(INPUT)
        lost.append(caught.value)  # and keeps, through its traceback, the channel that failed
    with serving(FakeTriton(), int(address.rpartition(":")[2])):
        client.infer(INPUT)
    client.close()


LARGE = {"constituents": np.repeat(INPUT["constituents"], 300, axis=0)}
"""0.96 MB: three under way are more than a connection should have."""


@pytest.mark.parametrize(("inputs", "most", "expected"), [(INPUT, 8, 1), (LARGE, 1, 1), (LARGE, 3, 3), (LARGE, 8, 4)])
def test_a_crowded_connection_gets_company(inputs: dict[str, np.ndarray], most: int, expected: int) -> None:
    fake = FakeTriton(delay=0.3)
    with serving(fake) as (_, address), Client(address, "top_tagger", connections=most, max_in_flight=12) as client:
        for _ in range(2):
            for future in [client.submit(inputs) for _ in range(12)]:
                future.result()
        assert client.servers()[f"grpc://{address}"]["answered"] == 24
    carried = Counter(fake.peers)
    assert len(carried) == expected
    assert min(carried.values()) >= 24 // expected - 2  # shared out evenly


def test_none_of_many_connections_backs_off_for_longer_than_the_server_was_away() -> None:
    async def body() -> None:
        with serving(FakeTriton(delay=0.3)) as (_, address):
            client = AsyncClient(address, "top_tagger", retry=Retry(attempts=1), connections=4, eject_after=99)
            await asyncio.gather(*(client.infer(LARGE) for _ in range(12)))
        for _ in range(6):
            lost = await asyncio.gather(*(client.infer(LARGE) for _ in range(12)), return_exceptions=True)
            assert all(isinstance(error, ServerUnavailableError) for error in lost)
        again = FakeTriton(delay=0.3)
        with serving(again, int(address.rpartition(":")[2])):
            await asyncio.gather(*(client.infer(LARGE) for _ in range(12)))
        assert len(set(again.peers)) == 4
        await client.close()

    asyncio.run(body())


def test_threads_that_wait_open_further_connections_too() -> None:
    fake = FakeTriton(delay=0.3)
    with serving(fake) as (_, address), Client(address, "top_tagger", connections=4, max_in_flight=12) as client:
        client.infer(INPUT)
        with ThreadPoolExecutor(12) as threads:
            list(threads.map(lambda _: client.infer(LARGE), range(12)))
    assert 4 <= len(set(fake.peers[1:])) <= 5  # not all find a free place at once; those go through the event loop


def test_a_lost_connection_leaves_the_others_and_is_replaced() -> None:
    opened: list[Any] = []

    def connect(arguments: Any) -> grpc.Channel:
        opened.append(arguments)
        return grpc.insecure_channel("127.0.0.1:1")  # connects when it is used, which it is not

    lines = Lines(connect, 2, [("first", 1)])
    first = lines.take(3 << 20)
    second = lines.take(1 << 20)
    assert opened[0] == [("first", 1)]
    assert lines.take(1) is second
    lines.forget(first)
    first.channel.close()
    assert lines.take(3 << 20) is second
    third = lines.take(1)
    assert third not in (first, second)
    assert opened[1] != opened[2]
    lines.give(first, 3 << 20)
    assert first.under_way == 0
    left = lines.close()
    assert left == [second, third]
    for line in left:
        line.channel.close()
    with pytest.raises(Fault):
        lines.take(1)


def test_places_go_to_who_waits_longest() -> None:
    async def body() -> list[str]:
        slots, order = InFlight(1), list[str]()

        async def work(name: str) -> None:
            async with slots:
                order.append(name)

        assert slots.acquire_now()
        tasks = [asyncio.create_task(work(name)) for name in "abc"]
        await asyncio.sleep(0)
        assert not slots.acquire_now()
        slots.release()
        tasks[0].cancel()  # it has just been given the place, or waits for it: either way the next one gets it
        await asyncio.gather(*tasks, return_exceptions=True)
        assert slots.acquire_now()
        assert not slots.acquire_now()
        return order

    assert asyncio.run(body()) == ["b", "c"]
