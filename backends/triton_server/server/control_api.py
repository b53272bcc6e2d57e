"""Triton's HTTP control API, by the standard library: one connection a call, so nothing outlives a restart."""

import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from triton_server.errors import ControlError, MalformedAnswerError

MOST_BYTES = 64 << 20
"""The largest answer that is read."""

Json = dict[str, Any]


@dataclass
class Control:
    """The control API of the server at host:port. Errors of the connection are OSError, refusals are ControlError."""

    host: str
    port: int
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent with every request: the key of a restricted API."""

    def live(self, timeout: float = 1.0) -> bool:
        """Whether the process answers at all."""
        return self._status("/v2/health/live", timeout) == 200

    def ready(self, timeout: float = 1.0) -> bool:
        """What Triton believes of itself: up to 2.67 it is ready with dead stubs. Supervisor.ready has the truth."""
        return self._status("/v2/health/ready", timeout) == 200

    def model_ready(self, model: str, timeout: float = 1.0) -> bool:
        """Whether Triton believes that the model can serve."""
        return self._status(f"/v2/models/{quote(model)}/ready", timeout) == 200

    def refuses_model(self, model: str, version: str, timeout: float = 1.0) -> bool:
        """Whether Triton says that it knows the version and that it is not ready; False where it says nothing."""
        return self._status(f"{_model(model, version)}/ready", timeout) // 100 in (4, 5)

    def version(self, timeout: float = 5.0) -> str:
        """The server's version, as it says."""
        return str(self._json("/v2", timeout).get("version", ""))

    def index(self, timeout: float = 5.0) -> list[Json]:
        """Every version of every model in the repository with its state and the reason of a failed load."""
        path = "/v2/repository/index"
        entries = _parsed(path, self.request("POST", path, b"{}", timeout=timeout))
        return _objects(path, entries, "name")

    def load(self, model: str, timeout: float = 120.0, *, config: str | None = None) -> None:
        """Load the model, or reload it where its files changed; the old version serves until the new one is ready.

        ``config``, in JSON, stands for the one of the repository until the next load.
        """
        body = json.dumps({} if config is None else {"parameters": {"config": config}}).encode()
        self.request("POST", f"/v2/repository/models/{quote(model)}/load", body, timeout=timeout)

    def unload(self, model: str, timeout: float = 10.0) -> None:
        """Stop serving the model."""
        self.request("POST", f"/v2/repository/models/{quote(model)}/unload", b"{}", timeout=timeout)

    def metadata(self, model: str, version: str = "", timeout: float = 5.0) -> Json:
        """Names, types and shapes of the model's inputs and outputs."""
        return self._json(f"{_model(model, version)}", timeout)

    def config(self, model: str, version: str = "", timeout: float = 5.0) -> Json:
        """The model's completed configuration."""
        return self._json(f"{_model(model, version)}/config", timeout)

    def statistics(self, timeout: float = 5.0) -> list[Json]:
        """Counts and times of every loaded model version."""
        path = "/v2/models/stats"
        return _objects(path, self._json(path, timeout).get("model_stats"), "name", "version")

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None,
        timeout: float = 5.0,
    ) -> bytes:  # fmt: skip
        """One request; returns the body of a 2xx answer. Raises ControlError with the server's message otherwise.

        An answer that is not whole after ``timeout`` seconds is none (TimeoutError), and one of more than MOST_BYTES is
        malformed.
        """
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        deadline = time.monotonic() + timeout
        try:
            connection.request(method, path, body=body, headers={**self.headers, **(headers or {})})
            stream = connection.sock
            answer = connection.getresponse()
            content = b""
            while part := answer.read1(1 << 16):
                content += part
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"{method} {path}: the answer is not whole after {timeout:g} s")
                if len(content) > MOST_BYTES:
                    raise MalformedAnswerError(f"{method} {path}: the answer has more than {MOST_BYTES} bytes")
                stream.settimeout(left)
        except http.client.HTTPException as error:
            raise ConnectionError(f"{type(error).__name__} from {self.host}:{self.port}") from error
        finally:
            connection.close()
        if answer.status // 100 != 2:
            raise ControlError(_message(content) or f"{method} {path}: status {answer.status}", answer.status)
        return content

    def _json(self, path: str, timeout: float) -> Json:
        parsed = _parsed(path, self.request("GET", path, timeout=timeout))
        return _objects(path, [parsed])[0]

    def _status(self, path: str, timeout: float) -> int:
        try:
            self.request("GET", path, timeout=timeout)
        except ControlError as error:
            return error.status
        except OSError:
            return 0
        return 200


def _model(model: str, version: str) -> str:
    return f"/v2/models/{quote(model)}" + (f"/versions/{quote(version)}" if version else "")


def _parsed(path: str, content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise MalformedAnswerError(f"{path}: expected JSON, came {content[:80]!r}") from error


def _objects(path: str, entries: Any, *names: str) -> list[Json]:
    """A list of objects that each have these members, or MalformedAnswerError."""
    if not isinstance(entries, list):
        raise MalformedAnswerError(f"{path}: expected a list, came {str(entries)[:80]}")
    for entry in entries:
        if not isinstance(entry, dict) or any(name not in entry for name in names):
            raise MalformedAnswerError(f"{path}: expected objects with {', '.join(names)}, came {str(entry)[:80]}")
    return entries


def _message(content: bytes) -> str:
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return content.decode(errors="replace")[:500]
