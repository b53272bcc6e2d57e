"""Server and model addresses: `triton+grpc://host:port/model/version`, as coffea's users write them."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from sonic_client.errors import ConfigurationError

_SCHEMES = {"grpc": ("grpc", False), "grpcs": ("grpc", True), "http": ("http", False), "https": ("http", True)}
_DEFAULT_PORT = {"grpc": 8001, "http": 8000}


@dataclass(frozen=True)
class ServerUrl:
    """One server: protocol "grpc" or "http", host, port, and whether the connection is encrypted.

    Protocol "local" is this process; its host is the model file.
    """

    protocol: str
    host: str
    port: int
    tls: bool = False

    @property
    def address(self) -> str:
        """`host:port`, with brackets around an IPv6 host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine by name or by loopback address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.protocol == "local":
            return f"local:{self.host}"
        return f"{self.protocol}{'s' if self.tls else ''}://{self.address}"


@dataclass(frozen=True)
class ModelUrl:
    """A model ("" if the URL names none), a version ("" is the server's choice) and the server that has it."""

    server: ServerUrl
    model: str = ""
    version: str = ""

    def __str__(self) -> str:
        path = "".join(f"/{part}" for part in (self.model, self.version) if part)
        return f"triton+{self.server}{path}"


def parse(text: str) -> ModelUrl:
    """Read `[triton+]grpc[s]|http[s]://host[:port][/model[/version]]`; `host:port` alone means gRPC.

    Raises ConfigurationError, which shows the form that is expected.
    """
    bare = text if "://" in text else f"grpc://{text}"
    try:
        parts = urlsplit(bare.removeprefix("triton+"))
        port = parts.port
    except ValueError as error:
        raise ConfigurationError(f"'{text}' is no server URL ({error})") from error
    known = _SCHEMES.get(parts.scheme)
    path = [part for part in parts.path.split("/") if part]
    if known is None or not parts.hostname or len(path) > 2 or parts.query or parts.fragment or parts.username:
        raise ConfigurationError(
            f"'{text}' is no server URL; expected triton+grpc://host:port/model/version "
            "(or grpcs, http, https; model and version may be left out)"
        )
    version = path[1] if len(path) == 2 else ""
    protocol, tls = known
    if port == 0 or not _may_be_host(parts.hostname):
        raise ConfigurationError(f"'{text}' is no server URL: no server has such a name or port")
    server = ServerUrl(protocol, parts.hostname, port or _DEFAULT_PORT[protocol], tls)
    _check_version(version, f"'{text}'")
    return ModelUrl(server, path[0] if path else "", version)


def _may_be_host(host: str) -> bool:
    """Whether a name service could be asked for it: words between dots of at most 63 letters."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return not any(character.isspace() for character in host)


def _check_version(version: object, where: str) -> str:
    """The version as Triton takes it, "" for the server's choice. Raises ConfigurationError."""
    text = "" if version is None else str(version)
    if text and not (text.isascii() and text.isdecimal()):
        raise ConfigurationError(f"{where}: the version must be a number, got {text!r}")
    return text


def resolve(
    urls: str | Sequence[str], model: str = "", version: str | int = ""
) -> tuple[tuple[ServerUrl, ...], str, str]:
    """The servers, the one model and the one version that some URLs and two arguments name together.

    A string may hold several URLs with commas between them. Raises ConfigurationError on contradictions.
    """
    listed = urls.split(",") if isinstance(urls, str) else urls
    if not isinstance(listed, Sequence) or not all(isinstance(part, str) for part in listed):
        raise ConfigurationError(f"expected the URL of a server, or a list of them, got {urls!r}")
    texts = [part.strip() for part in listed]
    parsed = [parse(text) for text in texts if text]
    if not parsed:
        raise ConfigurationError("no server URL given; expected for example triton+grpc://localhost:8001/top_tagger")
    version = _check_version(version, "version")
    models = {url.model for url in parsed if url.model} | ({model} if model else set())
    versions = {url.version for url in parsed if url.version} | ({version} if version else set())
    if len(models) != 1:
        raise ConfigurationError(
            f"the URLs name {'different models: ' + ', '.join(sorted(models)) if models else 'no model'}; "
            "name one, as triton+grpc://host:port/model or with model="
        )
    if len(versions) > 1:
        raise ConfigurationError(f"the URLs name different versions: {', '.join(sorted(versions))}")
    servers = tuple(dict.fromkeys(url.server for url in parsed))
    return servers, models.pop(), versions.pop() if versions else ""
