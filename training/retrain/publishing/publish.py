"""Publishing a version into a repository that may be served right now, and taking it back.

The server follows the repository: a version folder that appears is loaded, one that disappears is unloaded, and
requests are answered by the version before in the meantime. So publishing is one rename, and so is rolling back.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fpga_ops.calibration import RAW_PARAMETER
from fpga_ops.runtime.exact_products import exact_session
from retrain.errors import MissingDependencyError, PublishError
from retrain.publishing.versions import (
    GOLDEN_FILE,
    Version,
    check_name,
    damaged_files,
    versions,
    withdraw,
    write_version,
)

Answers = Mapping[str, NDArray[Any]]

SCORE_TOLERANCE = 1e-4  # of served scores, float arithmetic in another order
ONNXRUNTIME_TOLERANCE = 0.1  # of onnxruntime's scores, see docs/explanation/integer-network.md
COMPARED = ("auc", "rejection_30", "accuracy")  # higher is better
LOAD_TIMEOUT = 120.0  # s


def publish(
    repository: Path,
    model: str,
    network: onnx.ModelProto,
    golden_input: NDArray[np.float32],
    card: Mapping[str, Any],
    force: bool = False,
    server: str | None = None,
    timeout: float = LOAD_TIMEOUT,
) -> Version:
    """Add a version, after verification, and see to it that the server at `server` (host:port, HTTP) answers with it.

    A host name with several addresses, as a service of several replicas has in Docker and in Kubernetes (headless), is
    that many servers, and each must answer. A version that one of them does not load within `timeout` seconds, or
    answers wrongly with, is withdrawn again. Behind a proxy only some replica is asked: name the replicas instead.

    Raises:
        PublishError: It is worse than the version before and not forced, its answers disagree between the reference,
            the device and onnxruntime, another publisher is at work, the disk is full, or the server is down or wrong.
        ModelError: `fpga_ops` cannot serve the network.
    """
    check_name(model)
    with _lock(repository / model):
        replicas = live_servers(server)
        if not force:
            require_not_worse(repository, model, card)
        version = write_version(repository, model, network, golden_input, card, _verify)
        try:
            for replica in replicas:
                confirm_served(replica, version, timeout)
        except BaseException:
            withdraw(version)
            raise
        return version


def rollback(repository: Path, model: str, server: str | None = None) -> Version:
    """Take the newest version back; returns the one that is served instead, by every replica at `server`.

    Raises:
        PublishError: There is no version before, it is damaged, or the server does not go back to it.
    """
    check_name(model)
    with _lock(repository / model):
        known = versions(repository, model)
        if len(known) < 2:
            raise PublishError(f"{model}: {len(known)} version in {repository}, there is none to go back to")
        previous = known[-2]
        damaged = damaged_files(previous)
        if damaged:
            raise PublishError(f"{previous.folder}: {damaged[0]} is not what the model card says; not going back to it")
        replicas = addresses(server) if server is not None else []
        withdraw(known[-1])
        for replica in replicas:
            confirm_served(replica, previous)
        return previous


def addresses(server: str) -> list[str]:
    """Each address (host:port) behind host:port: one for every replica where a name stands for several.

    Raises:
        PublishError: `server` is not host:port, or the name is not known.
    """
    host, _, port = server.rpartition(":")
    if not host or not port.isdecimal():
        raise PublishError(f"expected the server as host:port, came {server!r}; nothing was changed")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise PublishError(f"no server is known as {host} ({error}); nothing was changed") from error
    # A machine has an IPv4 and an IPv6 address and may listen on one of them only.
    of_one_kind = [entry for entry in found if entry[0] == socket.AF_INET] or found
    hosts = sorted({str(entry[4][0]) for entry in of_one_kind})
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in hosts]


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One publisher a model; the lock goes with the process that holds it.

    A folder that it had to make, and in which nothing was published, goes again: the server would take it for a model.
    """
    made = not folder.is_dir()
    lock = folder / ".publish.lock"
    with _locked(lock):
        try:
            yield
        finally:
            if made and not any(entry != lock for entry in folder.iterdir()):
                lock.unlink()
                folder.rmdir()


def _locked(lock: Path) -> IO[str]:
    """The open lock file, held. One that another publisher removed meanwhile, with its folder, locks nobody out."""
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = lock.open("w")
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                return file
        except FileNotFoundError:
            pass
        except BlockingIOError as error:
            file.close()
            raise PublishError(
                f"{lock.parent}: another publish or rollback is under way; try again when it is done"
            ) from error
        file.close()


def require_not_worse(repository: Path, model: str, card: Mapping[str, Any]) -> None:
    """See that the new figures are within the errors of the newest version's, or better.

    Raises:
        PublishError: One is worse, or the card of that version cannot be read.
    """
    known = versions(repository, model)
    if not known:
        return
    served = known[-1]
    old, new = served.card.get("metrics", {}), card.get("metrics", {})
    for name in COMPARED:
        if name not in old or name not in new:
            continue
        error = float(np.hypot(old.get(f"{name}_err", 0.0), new.get(f"{name}_err", 0.0)))
        if new[name] < old[name] - error:
            raise PublishError(
                f"{name} is {new[name]:.5g}, worse than version {served.number}'s {old[name]:.5g} by more than the"
                f" error {error:.2g}; --force publishes it nevertheless"
            )


def _verify(model: Path, answers: Answers) -> None:
    """The reference's answers against the best device here, bit for bit, and against onnxruntime."""
    import fpga_ops

    golden_input = answers["input"]
    session = exact_session(model)
    name = session.get_inputs()[0].name
    theirs = session.run(["probabilities"], {name: golden_input})[0]
    off = float(np.abs(theirs - answers["probabilities"]).max())
    if off > ONNXRUNTIME_TOLERANCE:
        raise PublishError(f"{model.name}: onnxruntime's scores differ by {off:.3g}, allowed {ONNXRUNTIME_TOLERANCE}")
    if not any(device.usable and device.name != "reference" for device in fpga_ops.devices()):
        return
    network = fpga_ops.load(model, max_batch=len(golden_input))
    try:
        features = next(iter(network.features({name: golden_input}).values()))
    finally:
        network.close()
    if not np.array_equal(features, answers["features"]):
        wrong = int(np.count_nonzero(features != answers["features"]))
        raise PublishError(f"{model.name}: {network.device} differs from the reference in {wrong} integers")


def _client(server: str) -> Any:
    try:
        from tritonclient import http
    except ImportError as error:
        raise MissingDependencyError("--server needs tritonclient: pip install 'triton-fpga[client]'") from error
    return http.InferenceServerClient(server, network_timeout=30.0, connection_timeout=5.0)


def live_servers(server: str | None) -> list[str]:
    """The addresses behind `server`, each of which is live; none without a server.

    Raises:
        PublishError: One is not, or the name is not known.
    """
    replicas = addresses(server) if server is not None else []
    for replica in replicas:
        _require_server(replica)
    return replicas


def _require_server(server: str) -> None:
    client = _client(server)
    try:
        ready = client.is_server_live()
    except OSError as error:
        raise PublishError(f"no server answers at {server} ({error}); nothing was published") from error
    finally:
        client.close()
    if not ready:
        raise PublishError(f"the server at {server} is not live; nothing was published")


def confirm_served(server: str, version: Version, timeout: float = LOAD_TIMEOUT) -> None:
    """Wait until the server has loaded the version, then check its answers to the golden inputs.

    Raises:
        PublishError: It does not load in time, or a score is wrong.
    """
    from tritonclient import http
    from tritonclient.utils import InferenceServerException

    with np.load(version.folder / GOLDEN_FILE, allow_pickle=False) as archive:
        answers = {name: archive[name] for name in archive.files}
    client = _client(server)
    last = "it was not loaded"
    try:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                if client.is_model_ready(version.model, str(version.number)):
                    break
            except (OSError, InferenceServerException) as error:
                last = str(error)
            time.sleep(0.5)
        else:
            raise PublishError(f"{server} does not serve {version.model} version {version.number}: {last}")
        name = client.get_model_metadata(version.model, str(version.number))["inputs"][0]["name"]
        for row, expected in zip(answers["input"], answers["probabilities"], strict=True):
            tensor = http.InferInput(name, [1, *row.shape], "FP32")
            tensor.set_data_from_numpy(row[None])
            reply = client.infer(
                version.model, [tensor], str(version.number), parameters={RAW_PARAMETER: True}
            )  # the known answers are the network's own, also where the service scales them
            answer = reply.as_numpy("probabilities")
            off = float(np.abs(answer[0] - expected).max())
            if not off <= SCORE_TOLERANCE:
                raise PublishError(f"{server}: version {version.number} answers wrongly, a score is off by {off:.3g}")
    except (OSError, InferenceServerException) as error:
        raise PublishError(f"{server}: checking version {version.number}: {error}") from error
    finally:
        client.close()
