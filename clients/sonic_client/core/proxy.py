"""Which proxy a connection goes through: what `http_proxy`, `https_proxy`, `grpc_proxy` and `no_proxy` say.

Every connection of this package asks here, gRPC, HTTP and metrics alike, so that one rule holds for all: a server on
this machine, and a name without a dot (a host of the same network, a container), is reached directly.
"""

from __future__ import annotations

import ipaddress
import urllib.request
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from sonic_client.core.faults import Fault, Kind
from sonic_client.core.url import ServerUrl
from sonic_client.errors import ConfigurationError


@dataclass(frozen=True)
class Proxy:
    """A proxy for HTTP, and the variable that names it.

    Attributes:
        url: `http://[user:password@]host:port`.
        variable: Name of the environment variable, in lower case.
    """

    url: str
    variable: str

    def __str__(self) -> str:
        """Where it is, without the password."""
        parts = urlsplit(self.url)
        return f"{parts.hostname}:{parts.port} ({self.variable})"


def find_proxy(url: ServerUrl) -> Proxy | None:
    """The proxy for a server; None where the connection is direct.

    Never for a loopback address and for a name without a dot. Else the first that is set: `grpc_proxy` (gRPC only),
    `https_proxy` (encrypted) or `http_proxy` (not encrypted), `all_proxy`; in capitals as well. `no_proxy` lists the
    exceptions: names, suffixes, addresses, networks such as 10.0.0.0/8, or `*`.

    Raises:
        ConfigurationError: The variable names no HTTP proxy.
    """
    if url.protocol == "local" or url.is_loopback or not ("." in url.host or ":" in url.host):
        return None
    proxies = urllib.request.getproxies_environment()
    if _is_exception(url, proxies.get("no", "")):
        return None
    kinds = (("grpc",) if url.protocol == "grpc" else ()) + ("https" if url.tls else "http", "all")
    kind = next((kind for kind in kinds if proxies.get(kind)), None)
    return None if kind is None else _read(proxies[kind], f"{kind}_proxy")


def _is_exception(url: ServerUrl, listed: str) -> bool:
    """Whether `no_proxy` lists the server: `*`, its name or a domain of it, its address or a network of it."""
    host = url.host.lower()
    for entry in (entry.strip().lower() for entry in listed.split(",")):
        domain = entry.removeprefix("*").removeprefix(".")
        if entry == "*" or entry == url.address.lower() or (domain and f".{host}".endswith(f".{domain}")):
            return True
        try:
            if ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False):
                return True
        except ValueError:  # one of the two is a name
            continue
    return False


def _read(text: str, variable: str) -> Proxy:
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port = parts.port or 80
    except ValueError as error:
        raise ConfigurationError(f"{variable} is no URL ({error}); expected http://host:port") from error
    if parts.scheme != "http" or not parts.hostname:
        raise ConfigurationError(
            f"{variable} names a proxy of the kind '{parts.scheme}://'; expected http://host:port. "
            "List the server in no_proxy to reach it directly"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    user = "" if parts.username is None else quote(unquote(parts.username), safe="")
    password = "" if parts.password is None else ":" + quote(unquote(parts.password), safe="")
    return Proxy(f"http://{user}{password}{'@' if user or password else ''}{host}:{port}", variable)


_OF_THE_WAY = frozenset(
    {Kind.CONNECTION, Kind.SLOW, Kind.AUTHENTICATION, Kind.OVERLOAD, Kind.NOT_FOUND, Kind.NOT_READY, Kind.SERVER}
)


def name_proxy(fault: Fault, proxy: Proxy | None) -> Fault:
    """The same fault; where the proxy may be what failed, its words name it."""
    if proxy is not None and fault.kind in _OF_THE_WAY:
        fault.reason = f"{fault.reason}; asked through the proxy {proxy}"
    return fault


def opener(url: str) -> urllib.request.OpenerDirector:
    """What opens an http or https URL by the same rule; urllib's own goes to a proxy for this machine as well.

    Raises ConfigurationError where it is no such URL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError) as error:
        raise ConfigurationError(f"'{url}' is no URL of a page; expected http://host:port/path") from error
    proxy = find_proxy(ServerUrl("http", parts.hostname or "", port, parts.scheme == "https"))
    handler = urllib.request.ProxyHandler({} if proxy is None else {parts.scheme: proxy.url})
    return urllib.request.build_opener(handler)
