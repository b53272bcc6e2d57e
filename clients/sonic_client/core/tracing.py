"""Request ids and W3C trace context (https://www.w3.org/TR/trace-context/), so that logs and traces can be joined."""

from __future__ import annotations

import itertools
import os
import re
import secrets
import uuid

_TRACEPARENT = re.compile(r"^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$")


class Identity:
    """Makes a client's request ids: one random part for the client, one running number for the request."""

    def __init__(self) -> None:
        self._client = uuid.uuid4().hex[:12]
        self._numbers = itertools.count(1)

    def next_request(self) -> str:
        """An id that no other request carries."""
        return f"{self._client}-{next(self._numbers)}"


def child_span(parent: str | None = None) -> str:
    """A `traceparent` header: a new span of the parent's trace (or of TRACEPARENT's, or of a new trace)."""
    match = _TRACEPARENT.match(parent or os.environ.get("TRACEPARENT", ""))
    trace, flags = (match.group(1), match.group(3)) if match else (secrets.token_hex(16), "01")
    return f"00-{trace}-{secrets.token_hex(8)}-{flags}"
