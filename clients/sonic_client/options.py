"""Settings of a client: plain, frozen, picklable data."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Integral, Real
from os import PathLike
from pathlib import Path

from sonic_client.errors import ConfigurationError

Token = str | Path | Callable[[], str]
"""A bearer token: the token itself, a file that is read again for every request, or a function (picklable)."""


@dataclass(frozen=True)
class Tls:
    """Files (PEM) for an encrypted connection; `certificate` and `key` together make it mutual."""

    ca: str | PathLike[str] | None = None
    certificate: str | PathLike[str] | None = None
    key: str | PathLike[str] | None = None

    def __post_init__(self) -> None:
        for name in ("ca", "certificate", "key"):
            object.__setattr__(self, name, _path(getattr(self, name), f"Tls.{name}", optional=True))
        if (self.certificate is None) != (self.key is None):
            raise ConfigurationError("mutual TLS needs both a certificate and its key")
        for file in (self.ca, self.certificate, self.key):
            try:
                there = file is None or Path(file).is_file()
            except OSError as error:
                raise ConfigurationError(f"TLS file {file} cannot be read: {error.strerror}") from error
            if not there:
                raise ConfigurationError(f"TLS file {file} does not exist")

    def contents(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Authority, key and certificate, as gRPC takes them. Raises ConfigurationError when one cannot be read."""
        try:
            ca, key, certificate = (
                None if f is None else Path(f).read_bytes() for f in (self.ca, self.key, self.certificate)
            )
        except OSError as error:
            raise ConfigurationError(f"a TLS file cannot be read: {error}") from error
        return ca, key, certificate

    def context(self) -> ssl.SSLContext:
        """The same settings for HTTPS. Raises ConfigurationError for files that are no certificates."""
        try:
            context = ssl.create_default_context(cafile=None if self.ca is None else str(self.ca))
            if self.certificate is not None and self.key is not None:
                context.load_cert_chain(str(self.certificate), str(self.key))
        except OSError as error:  # ssl.SSLError is one
            raise ConfigurationError(f"{self} cannot be used: {error}") from error
        return context


@dataclass(frozen=True)
class Retry:
    """Exponential back-off with full jitter: before attempt n, wait uniformly in [0, min(cap, base * 2^n)] seconds.

    Full jitter is the rule of M. Brooker, "Exponential Backoff and Jitter" (AWS Architecture Blog, 2015). The total is
    bounded by the request's deadline; `attempts` bounds the number of sendings besides.
    """

    base: float = 0.05
    cap: float = 2.0
    attempts: int = 50

    def __post_init__(self) -> None:
        for name in ("base", "cap"):
            check_seconds(name, getattr(self, name), above=True)
        _check_whole("attempts", self.attempts, 1)
        if self.cap < self.base:
            raise ConfigurationError(f"expected 0 < base <= cap and attempts >= 1, got {self}")

    def ceiling(self, failures: int) -> float:
        """Longest wait after so many failures, in seconds."""
        return min(self.cap, self.base * 2.0 ** min(failures - 1, 60))


@dataclass(frozen=True)
class LocalModel:
    """Local fallback in this process: the same integer network through `fpga_ops`, so the same bits.

    Args:
        path: The `model.onnx` of the version that the servers serve.
        device: As for `fpga_ops.load`; None takes the best one that is usable.
    """

    path: str | PathLike[str]
    device: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", _path(self.path, "LocalModel.path"))


@dataclass(frozen=True)
class LocalServer:
    """Local fallback with a Triton server of our own, started when first needed and stopped with the client."""

    model_repository: str | PathLike[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "model_repository", _path(self.model_repository, "LocalServer.model_repository"))


def _path(value: object, name: str, *, optional: bool = False) -> Path | None:
    if value is None and optional:
        return None
    if not isinstance(value, (str, PathLike)):
        raise ConfigurationError(f"{name}: expected a path, got {value!r}")
    return Path(value)


def check_seconds(name: str, value: object, *, above: bool, optional: bool = False) -> None:
    """Raises ConfigurationError for what is no time, NaN among it; infinity is a time without an end."""
    if value is None and optional:
        return
    if not isinstance(value, Real) or isinstance(value, bool) or not (float(value) > 0 if above else float(value) >= 0):
        words = ("None or " if optional else "") + ("more than 0 s" if above else "0 s or more")
        raise ConfigurationError(f"{name}: expected {words}, got {value!r}")


def _check_whole(name: str, value: object, least: int) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ConfigurationError(f"{name}: expected a whole number of at least {least}, got {value!r}")


def _check_labels(labels: object) -> None:
    """Raises ConfigurationError for one string, whose letters would be taken for classes, and for names given twice."""
    names = list(labels) if isinstance(labels, (list, tuple)) else []
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        raise ConfigurationError(f"labels: expected the names of the classes, such as ('qcd', 'top'), got {labels!r}")


@dataclass(frozen=True)
class Options:
    """How a client behaves. All times are in seconds.

    Attributes:
        deadline: Total time of one request, retries included.
        attempt_timeout: Longest time of one sending; None leaves it to the deadline.
        warm_up: How long to wait, beyond the deadline, for a server that is still starting. It counts only until the
            client's first answer.
        max_in_flight: Requests under way at once, over all servers; also the bound on memory when streaming.
        batch_size: Jets in a request. 1 keeps the lowest latency; more is client-side batching.
        connections: gRPC connections to a server at most. There is one, until more than 2 MB are under way on it. (HTTP
            has one for each request in flight.)
        compression: None, "gzip" or "deflate", of what is sent.
        tls: Certificates; the URL's scheme (grpcs, https) switches encryption on.
        token: Bearer token, sent as `Authorization`. Refused on an unencrypted connection to another machine unless
            `allow_plaintext_token`.
        shared_memory: True, False, or None: used for servers on this machine once it has been measured to be faster. It
            takes the server's admin key, so the server has to run as the same user; else requests go inline.
        hedge_after: Send a second copy elsewhere when no answer came for so long; None never does.
        fallback: What to use when no server answers; None raises.
        fallback_after: How long to look for a server before the fallback takes over.
        eject_after: Consecutive failures that take a server out of use.
        eject_for: How long at first; it doubles with every further ejection, up to a minute.
        priority: Triton's priority level of the requests, 1 first; 0 is the model's default level.
        labels: The classes, in the order of the model's output.
        metrics_url: Metrics page of the server (one server), for `Reply.provenance` where answers do not say what gave
            them. "" takes port 8002 for servers on 8000 or 8001, and looks servers of this user on this machine up.
    """

    deadline: float = 60.0
    attempt_timeout: float | None = None
    warm_up: float = 120.0
    max_in_flight: int = 32
    batch_size: int = 1
    connections: int = 8
    compression: str | None = None
    tls: Tls = field(default_factory=Tls)
    token: Token | None = None
    allow_plaintext_token: bool = False
    shared_memory: bool | None = None
    hedge_after: float | None = None
    fallback: LocalModel | LocalServer | None = None
    fallback_after: float = 5.0
    eject_after: int = 3
    eject_for: float = 0.5
    retry: Retry = field(default_factory=Retry)
    priority: int = 0
    labels: tuple[str, ...] = ("qcd", "top")
    metrics_url: str = ""

    def __post_init__(self) -> None:
        kinds: tuple[tuple[str, type | tuple[type, ...], str], ...] = (
            ("tls", Tls, "Tls(ca=...)"),
            ("retry", Retry, "Retry(...)"),
            (
                "fallback",
                (LocalModel, LocalServer, type(None)),
                "LocalModel(path), LocalServer(model_repository) or None",
            ),
        )
        for name, kind, words in kinds:
            if not isinstance(getattr(self, name), kind):
                raise ConfigurationError(f"{name}: expected {words}, got {getattr(self, name)!r}")
        for name in ("deadline", "eject_for"):
            check_seconds(name, getattr(self, name), above=True)
        for name in ("warm_up", "fallback_after"):
            check_seconds(name, getattr(self, name), above=False)
        for name in ("attempt_timeout", "hedge_after"):
            check_seconds(name, getattr(self, name), above=True, optional=True)
        for name in ("max_in_flight", "batch_size", "connections", "eject_after"):
            _check_whole(name, getattr(self, name), 1)
        _check_whole("priority", self.priority, 0)
        _check_labels(self.labels)
        object.__setattr__(self, "labels", tuple(self.labels))
        if self.compression not in (None, "gzip", "deflate"):
            raise ConfigurationError(f"compression: expected None, 'gzip' or 'deflate', got {self.compression!r}")


def read_token(token: Token) -> str:
    """The token's present value. Raises ConfigurationError when there is none."""
    if isinstance(token, Path):
        try:
            value = token.read_text().strip()
        except OSError as error:
            raise ConfigurationError(f"the token file cannot be read: {error}") from error
    else:
        value = token() if callable(token) else token
    if not isinstance(value, str) or not value or not all("!" <= character <= "~" for character in value):
        raise ConfigurationError("the bearer token is empty, or holds white space or what is no printable ASCII")
    return value


def token_from_environment() -> Token | None:
    """Where WLCG tools keep a token: BEARER_TOKEN, else BEARER_TOKEN_FILE, else /run/user/UID/bt_uUID."""
    value = os.environ.get("BEARER_TOKEN")
    if value:
        return value
    file = os.environ.get("BEARER_TOKEN_FILE")
    if file:
        return Path(file)
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR", "/nonexistent")) / f"bt_u{os.getuid()}"
    try:
        return runtime if runtime.is_file() else None
    except OSError:  # somebody else's folder, as after `sudo`
        return None
