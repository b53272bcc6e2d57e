"""The client for asyncio: tags jets and sends plain tensors."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from sonic_client.core.masked import Bad
from sonic_client.core.reply import Reply
from sonic_client.core.session import Session
from sonic_client.core.timing import Breakdown, Totals
from sonic_client.core.transports.base import ModelInfo, Tensor
from sonic_client.core.url import resolve
from sonic_client.core.working_points import WorkingPoint, find_working_point
from sonic_client.errors import BadReplyError, ConfigurationError, JetError, RequestError
from sonic_client.events.images import ImageBatch, read_images
from sonic_client.events.jets import JetBatch, prepare
from sonic_client.options import Options

T = TypeVar("T")
E = TypeVar("E")
R = TypeVar("R")

_TWO_LOOPS = "this AsyncClient is in use in another event loop, which still runs; make one for each, or use Client"

Progress = Callable[[int], None]
"""Called with the number of jets just answered."""


class AsyncClient:
    """One model on one or more servers, for asyncio. In another `asyncio.run` it connects anew.

        async with AsyncClient("triton+grpc://localhost:8001/top_tagger") as client:
            scores = await client.tag(jets)

    Args:
        urls: `triton+grpc://host:port/model/version`, or several: a list, or a string with commas.
        model: The model, if the URLs do not name it.
        version: The version; "" is the server's choice.
        options: All settings; single ones may be given by name instead (`AsyncClient(url, deadline=5)`).
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
        self.options = _options(options, settings)
        self.servers_asked, self.model, self.version = resolve(urls, model, version)
        self._session: Session | None = None

    # ---- tensors

    async def infer(self, inputs: Mapping[str, Tensor], **request: Any) -> Reply:
        """One request, one answer; see `Session.infer` for request_id, traceparent, deadline and parameters."""
        return await self._open().infer(inputs, **request)

    async def stream(
        self, source: Iterable[Mapping[str, Tensor]] | AsyncIterable[Mapping[str, Tensor]], *, ordered: bool = True
    ) -> AsyncIterator[Reply]:
        """Answers to an unbounded source of requests.

        At most `max_in_flight` requests are taken from the source ahead of what the consumer has taken: a slow
        consumer or server holds the source back. `ordered=False` gives answers as they come.
        """
        pending: deque[asyncio.Task[Reply]] = deque()
        iterator = _as_async(source)
        exhausted = False
        try:
            while True:
                while not exhausted and len(pending) < self.options.max_in_flight:
                    try:
                        inputs = await anext(iterator)
                    except StopAsyncIteration:
                        exhausted = True
                        break
                    pending.append(asyncio.create_task(self.infer(inputs)))
                    await asyncio.sleep(0)  # let it be sent before the source is asked again
                if not pending:
                    return
                if ordered:
                    task = pending.popleft()
                else:
                    done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                    task = next(one for one in pending if one in done)
                    pending.remove(task)
                try:
                    reply = await task
                except asyncio.CancelledError:
                    task.cancel()
                    raise
                yield reply
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    # ---- jets

    async def tag(
        self,
        jets: Any,
        *,
        label: str = "top",
        bad: Bad = "raise",
        progress: Progress | None = None,
        answered: Callable[[Reply], None] | None = None,
    ) -> Any:
        """The score of one class for every jet, in the jets' own order and structure.

        Jets are constituents (see `jets.prepare`) or, for a model that takes images, numpy images. The result is
        awkward for awkward jets, numpy float32 for numpy jets, and a masked array for a masked array. A jet that is
        missing (None, or masked as a whole) has a missing score.
        `answered` is called with every reply, which says what server and version it is from.
        """
        if label not in self.options.labels:
            raise ConfigurationError(f"no class '{label}'; the classes are {', '.join(self.options.labels)}")
        column = self.options.labels.index(label)
        return await self._score(jets, bad, progress, lambda rows: np.ascontiguousarray(rows[:, column]), answered)

    async def probabilities(self, jets: Any, *, bad: Bad = "raise", progress: Progress | None = None) -> Any:
        """As `tag`, with one probability a class for every jet."""
        return await self._score(jets, bad, progress, lambda rows: rows)

    async def working_point(
        self, efficiency: float, reply: Reply | None = None, *, label: str = "top", card: Path | None = None
    ) -> WorkingPoint:
        """The cut that keeps a fraction of a class: `scores > point.threshold`, both in double precision.

        Args:
            efficiency: Such as 0.3; a fraction for which the version was judged.
            reply: An answer whose version and server are meant (`answered` of `tag` gives them); None asks by one
                made-up jet.
            label: The class.
            card: The version's model_card.json, or its folder; None takes what the server's metrics page tells.

        Raises:
            WorkingPointError: There is none; the message says which there are.
            ConfigurationError: The efficiency is no fraction, or the card cannot be read.
        """
        if reply is None:
            replies: list[Reply] = []
            await self._score(_made_up(await self.info()), "raise", None, lambda rows: rows, replies.append)
            reply = replies[0]
        config: dict[str, Any] | None = None
        if card is not None:
            with suppress(RequestError):  # not every server shows configurations
                config = await self.config()
        return await asyncio.to_thread(find_working_point, efficiency, reply, self.model, config, card, label)

    # ---- about

    async def info(self) -> ModelInfo:
        """The model's inputs and outputs."""
        return await self._open().info()

    async def config(self) -> dict[str, Any]:
        """The model's configuration."""
        return await self._open().config()

    async def index(self) -> dict[str, list[dict[str, str]]]:
        """Which server serves what."""
        return await self._open().index()

    async def explain(self, inputs: Mapping[str, Tensor]) -> tuple[Reply, Breakdown]:
        """One request, and where its time went."""
        return await self._open().explain(inputs)

    async def server_statistics(self) -> dict[str, dict[str, float]]:
        """The servers' mean times in ms since this client began."""
        return await self._open().server_statistics()

    def statistics(self) -> Totals:
        """Sums over this client's calls since it was opened: a copy, which stays as it is."""
        return Totals() if self._session is None else self._session.statistics()

    def servers(self) -> dict[str, dict[str, Any]]:
        """What is believed of every server."""
        return {} if self._session is None else self._session.servers()

    async def close(self) -> None:
        """Close the connections. The client may be used again afterwards."""
        session, self._session = self._session, None
        if session is None:
            return
        if session.loop is asyncio.get_running_loop():
            await session.close()
        elif not session.loop.is_running():
            session.abandon()
        else:
            self._session = session
            raise ConfigurationError(_TWO_LOOPS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_session": None}

    # ---- inside

    def _open(self) -> Session:
        if self._session is not None and self._session.loop is not asyncio.get_running_loop():
            if self._session.loop.is_running():
                raise ConfigurationError(_TWO_LOOPS)
            self._session.abandon()  # an `asyncio.run` that has ended; its connections went with it
            self._session = None
        if self._session is None:
            self._session = Session(self.servers_asked, self.model, self.version, self.options)
        return self._session

    async def _score(
        self,
        jets: Any,
        bad: Bad,
        progress: Progress | None,
        choose: Callable[[NDArray[np.float32]], NDArray[np.float32]],
        answered: Callable[[Reply], None] | None = None,
    ) -> Any:
        info = await self.info()
        name, shape = _jet_input(info)
        batch: JetBatch | ImageBatch
        if len(shape) == 3:
            batch = read_images(jets, (shape[0], shape[1], shape[2]), bad=bad)
        else:
            batch = prepare(jets, bad=bad)
        rows = await self._rows(name, info, batch.chunks(self.options.batch_size), progress, answered)
        return batch.restore(choose(rows))

    async def _rows(
        self,
        name: str,
        info: ModelInfo,
        tensors: Iterator[NDArray[np.float32]],
        progress: Progress | None,
        answered: Callable[[Reply], None] | None,
    ) -> NDArray[np.float32]:
        """All answers in the order of the tensors: float32[N, classes]."""
        output = _score_output(info, len(self.options.labels))
        parts: list[NDArray[np.float32]] = []
        async for reply in self.stream({name: tensor} for tensor in tensors):
            if answered is not None:
                answered(reply)
            rows = reply.outputs.get(output)
            if rows is None or not np.isfinite(rows).all():
                raise BadReplyError(
                    f"the model was replaced by one without the output '{output}'"
                    if rows is None
                    else f"output '{output}' holds NaN or infinite values",
                    request_id=reply.request_id,
                    model=self.model,
                    server=reply.server,
                    attempts=reply.attempts,
                )
            parts.append(rows)
            if progress is not None:
                progress(len(rows))
        return np.concatenate(parts) if parts else np.zeros((0, len(self.options.labels)), np.float32)


def _options(options: Options | None, settings: Mapping[str, Any]) -> Options:
    unknown = set(settings) - {field.name for field in dataclasses.fields(Options)}
    if unknown:
        raise ConfigurationError(
            f"no such setting: {', '.join(sorted(unknown))}; there are "
            f"{', '.join(field.name for field in dataclasses.fields(Options))}"
        )
    return dataclasses.replace(options or Options(), **settings)


async def _as_async(source: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    if isinstance(source, AsyncIterable):
        async for item in source:
            yield item
    else:
        for item in source:
            yield item


def _jet_input(info: ModelInfo) -> tuple[str, tuple[int, ...]]:
    """The one input and its shape without the batch: (200, 4) for constituents, (planes, H, W) for images."""
    if len(info.inputs) == 1:
        tensor = info.inputs[0]
        shape = tensor.shape[1:]
        if tensor.dtype == "FP32" and -1 not in shape and (shape == (200, 4) or len(shape) == 3):
            return tensor.name, shape
    raise JetError(
        f"model '{info.name}' takes {', '.join(f'{t.name} {t}' for t in info.inputs)}; tag needs one input, "
        "constituents FP32[-1, 200, 4] or images FP32[-1, planes, height, width]. Use infer for other models"
    )


def _made_up(info: ModelInfo) -> Any:
    """One jet, or one image, that a model takes."""
    _, shape = _jet_input(info)
    if len(shape) == 3:
        return np.full((1, *shape), 1.0 / (shape[1] * shape[2]), np.float32)
    return np.array([[[500.0, 300.0, 400.0, 0.0]]])


def _score_output(info: ModelInfo, classes: int) -> str:
    fitting = [t.name for t in info.outputs if t.dtype == "FP32" and t.shape[1:] == (classes,)]
    if "probabilities" in fitting:
        return "probabilities"
    if len(fitting) == 1:
        return fitting[0]
    raise JetError(
        f"model '{info.name}' has the outputs {', '.join(f'{t.name} {t}' for t in info.outputs)}; expected "
        f"probabilities FP32[-1, {classes}] for the classes of options.labels"
    )
