"""Meeting the server before a job begins: what is waited for is said, and not for longer than the user has patience."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any

from sonic_client.client import Client
from sonic_client.errors import ConfigurationError, RequestError, ServerUnavailableError

PATIENCE = 20.0
"""Seconds that a server which nobody reaches gets to appear."""
SILENT = 2.0
"""Seconds of waiting before a word about it."""
_LOOK_EVERY = 0.1
_UNREACHED = ("connect", "refused", "dns", "resol", "not asked yet", "unreachable", "name or service", "no route")

Say = Callable[[str], None]


def meet_server(client: Client, patience: float = PATIENCE, say: Say | None = None) -> None:
    """Wait until the model is ready, and check that it takes batches of the client's size.

    Args:
        client: Its `warm_up` bounds the waiting for a server that answers and is still loading.
        patience: Seconds for a server to which no connection can be made.
        say: Told after two seconds what is waited for, and again when that changes.

    Raises:
        ServerUnavailableError: No connection could be made in that time.
        ConfigurationError: The model does not take such batches.
        RequestError: As `Client.info`.
    """
    with ThreadPoolExecutor(1) as thread:
        _watch(client, thread.submit(client.info), patience, say)
    _check_batch(client)


def _watch(client: Client, asking: Future[Any], patience: float, say: Say | None) -> None:
    began = time.monotonic()
    said = ""
    while not wait([asking], _LOOK_EVERY).done:
        waited = time.monotonic() - began
        servers = client.servers()
        reasons = "; ".join(f"{name}: {about['reason']}" for name, about in servers.items())
        unreached = all(_is_unreached(about) for about in servers.values())
        if say is not None and waited > SILENT and reasons != said:
            until = f" for up to {patience:g} s (--patience)" if unreached else ""
            say(f"waiting{until}: {reasons or 'no server is known yet'}")
            said = reasons
        if unreached and waited > patience and not (client.options.fallback and waited < _fallback_end(client)):
            client.close()
            with suppress(Exception):  # it was just cancelled
                asking.exception(5.0)
            raise ServerUnavailableError(
                f"no server could be reached within {patience:g} s (--patience): {reasons}", model=client.model
            )
    asking.result()


def _fallback_end(client: Client) -> float:
    """Seconds after which a local fallback has had time to start."""
    return client.options.fallback_after + client.options.warm_up


def _is_unreached(about: dict[str, Any]) -> bool:
    reason = str(about["reason"]).lower()
    return about["state"] in ("unknown", "out") and any(word in reason for word in _UNREACHED)


def _check_batch(client: Client) -> None:
    size = client.options.batch_size
    if size == 1:
        return
    try:
        most = int(client.config().get("max_batch_size", 0))
    except RequestError:  # not every server shows configurations
        return
    if 0 < most < size:
        raise ConfigurationError(
            f"batches of {size} jets (--batch): model '{client.model}' takes at most {most} (max_batch_size in its "
            f"configuration); say --batch {most} or less"
        )
