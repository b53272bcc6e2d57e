"""The client for ordinary Python, the same as `AsyncClient` without `await`; and `tag`, in one call."""

from __future__ import annotations

import atexit
import sys
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from sonic_client import background
from sonic_client.async_client import AsyncClient, Progress
from sonic_client.core.masked import Bad
from sonic_client.core.reply import Reply
from sonic_client.core.timing import Breakdown, Totals
from sonic_client.core.transports.base import ModelInfo, Tensor
from sonic_client.core.working_points import WorkingPoint
from sonic_client.errors import ClientError, ConfigurationError
from sonic_client.options import Options

T = TypeVar("T")
E = TypeVar("E")
R = TypeVar("R")

__all__ = ["AsyncClient", "Client", "tag"]


class Client:
    """One model on one or more servers, for ordinary Python: the same as `AsyncClient`, without `await`.

        client = Client("triton+grpc://localhost:8001/top_tagger")
        scores = client.tag(jets)

    Thread-safe and picklable: a copy in another process connects anew. All clients of a process share one background
    thread, in which everything is asynchronous; only `infer` sends from the caller's own thread while all goes well.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        model: str = "",
        version: str | int = "",
        *,
        options: Options | None = None,
        **settings: Any,
    ) -> None:
        self._client = AsyncClient(urls, model, version, options=options, **settings)

    @property
    def options(self) -> Options:
        """The settings."""
        return self._client.options

    @property
    def model(self) -> str:
        """The model's name."""
        return self._client.model

    # ---- synchronous, asynchronous, streaming

    def infer(self, inputs: Mapping[str, Tensor], **request: Any) -> Reply:
        """Send one request and wait for the answer."""
        session = self._client._session
        if session is not None and not background.loop().is_here():
            begun = session.infer_here(inputs, **request)
            if isinstance(begun, Reply):
                return begun
            if begun is not None:
                return self._run(session.resume(begun))
        return background.wait(self.submit(inputs, **request))

    def submit(
        self, inputs: Mapping[str, Tensor], callback: Callable[[Future[Reply]], None] | None = None, **request: Any
    ) -> Future[Reply]:
        """Send one request and return at once. `future.cancel()` cancels it on the server as well (gRPC).

        The callback gets the finished future, in the client's thread: it must return soon.
        """
        _open_clients.add(self)
        future = background.loop().submit(self._client.infer(inputs, **request))
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def stream(self, source: Iterable[Mapping[str, Tensor]]) -> Iterator[Reply]:
        """Answers, in order, to an unbounded source, of which at most `max_in_flight` are held at once."""
        return self.process(source, acquire=lambda inputs: inputs, produce=lambda _, reply: reply)

    def process(
        self,
        events: Iterable[E],
        *,
        acquire: Callable[[E], Mapping[str, Tensor]],
        produce: Callable[[E, Reply], R],
    ) -> Iterator[R]:
        """SONIC's pattern: `acquire(event)` makes an event's inputs, the work goes on, `produce(event, reply)` ends it.

        Results come in the order of the events; at most `max_in_flight` events are between the two at any time.
        """
        pending: deque[tuple[E, Future[Reply]]] = deque()
        try:
            for event in events:
                pending.append((event, self.submit(acquire(event))))
                if len(pending) >= self.options.max_in_flight:
                    yield self._produce(pending, produce)
            while pending:
                yield self._produce(pending, produce)
        finally:
            for _, future in pending:
                future.cancel()

    @staticmethod
    def _produce(pending: deque[tuple[E, Future[Reply]]], produce: Callable[[E, Reply], R]) -> R:
        event, future = pending[0]
        reply = background.wait(future)
        pending.popleft()
        return produce(event, reply)

    # ---- jets

    def tag(
        self,
        jets: Any,
        *,
        label: str = "top",
        bad: Bad = "raise",
        progress: Progress | None = None,
        answered: Callable[[Reply], None] | None = None,
    ) -> Any:
        """The score of one class for every jet, in the jets' own order and structure."""
        return self._run(self._client.tag(jets, label=label, bad=bad, progress=progress, answered=answered))

    def probabilities(self, jets: Any, *, bad: Bad = "raise", progress: Progress | None = None) -> Any:
        """As `tag`, with one probability a class for every jet."""
        return self._run(self._client.probabilities(jets, bad=bad, progress=progress))

    def working_point(
        self, efficiency: float, reply: Reply | None = None, *, label: str = "top", card: Path | None = None
    ) -> WorkingPoint:
        """The cut that keeps a fraction of a class: `scores > point.threshold`; see `AsyncClient.working_point`."""
        return self._run(self._client.working_point(efficiency, reply, label=label, card=card))

    # ---- about

    def info(self) -> ModelInfo:
        """The model's inputs and outputs."""
        return self._run(self._client.info())

    def config(self) -> dict[str, Any]:
        """The model's configuration."""
        return self._run(self._client.config())

    def index(self) -> dict[str, list[dict[str, str]]]:
        """Which server serves what."""
        return self._run(self._client.index())

    def explain(self, inputs: Mapping[str, Tensor]) -> tuple[Reply, Breakdown]:
        """One request, and where its time went."""
        return self._run(self._client.explain(inputs))

    def server_statistics(self) -> dict[str, dict[str, float]]:
        """The servers' mean times in ms since this client began."""
        return self._run(self._client.server_statistics())

    def statistics(self) -> Totals:
        """Sums over this client's calls since it was opened: a copy, which stays as it is."""
        return self._client.statistics()

    def servers(self) -> dict[str, dict[str, Any]]:
        """What is believed of every server."""
        return self._client.servers()

    def close(self) -> None:
        """Close the connections. The client may be used again afterwards.

        In a process forked from one that uses it there is nothing to close: the connections are the other's.
        """
        if self._client._session is not None and background.present() is not None:
            self._run(self._client.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        client = getattr(self, "_client", None)
        if client is not None and client._session is not None and not sys.is_finalizing():
            loop = background.present()
            if loop is not None:
                with suppress(RuntimeError, ConfigurationError):
                    loop.submit(client.close())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        _open_clients.add(self)
        try:
            loop = background.loop()
        except ConfigurationError:
            work.close()
            raise
        return background.wait(loop.submit(work))


def tag(jets: Any, urls: str | Sequence[str], **settings: Any) -> Any:
    """The top score of every jet, in one call: `tag(jets, "triton+grpc://localhost:8001/top_tagger")`."""
    with Client(urls, **settings) as client:
        return client.tag(jets)


_open_clients: weakref.WeakSet[Client] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Leave no connection, shared memory or local server behind, whatever the user forgot to close."""
    for client in list(_open_clients):
        loop = background.present()
        if loop is not None:
            with suppress(ClientError, CancelledError, TimeoutError):
                loop.submit(client._client.close()).result(timeout=10.0)
