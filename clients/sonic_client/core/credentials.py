"""What a request proves its sender with: bearer token, trace context, and the admin key of a server of one's own."""

from __future__ import annotations

from collections.abc import Iterable

from sonic_client.core.admin_key import with_own_key
from sonic_client.core.url import ServerUrl
from sonic_client.errors import ConfigurationError
from sonic_client.options import Options, read_token


class Credentials:
    """Headers of the requests of one client.

    Raises ConfigurationError if a token would travel unencrypted to another machine and the options do not allow it.
    """

    def __init__(self, options: Options, servers: Iterable[ServerUrl]) -> None:
        self._token = options.token
        if self._token is None or options.allow_plaintext_token:
            return
        for url in servers:
            if not url.tls and not url.is_loopback:
                raise ConfigurationError(
                    f"a bearer token would travel unencrypted to {url}; use grpcs or https, or allow_plaintext_token"
                )

    def headers(self, traceparent: str | None = None) -> dict[str, str]:
        """Headers of one request, the token read anew. Raises ConfigurationError when there is none now."""
        headers = {} if traceparent is None else {"traceparent": traceparent}
        if self._token is not None:
            headers["authorization"] = f"Bearer {read_token(self._token)}"
        return headers

    def owner_headers(self, url: ServerUrl) -> dict[str, str]:
        """Headers of a request that only the server's owner may send, as far as this user is the owner."""
        return with_own_key(url, self.headers())

    def headers_or_none(self) -> dict[str, str]:
        """Headers of a farewell: without a token that is no longer there."""
        try:
            return self.headers()
        except ConfigurationError:
            return {}
