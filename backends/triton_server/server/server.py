"""One tritonserver process: start, readiness, log, bounded stop, nothing left behind."""

import contextlib
import itertools
import logging
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from triton_server.errors import ServerError, ServerStalledError, ServerStartError
from triton_server.repository.admission import verify_repository
from triton_server.server import launch, shared_memory
from triton_server.server.abilities import NEWEST_KNOWN, Abilities, newer_than_known
from triton_server.server.admin_key import ADMIN_HEADER, default_path, read_or_make
from triton_server.server.control_api import Control, Json
from triton_server.server.installation import (
    Installation,
    backend_folder,
    check_numpy,
    check_python,
    find_installation,
)
from triton_server.server.ports import resolve_ports
from triton_server.server.run_directory import assemble, is_plain, plain_path
from triton_server.supervisor.processes import cpu_seconds, find_stubs, hide_argument, kill_and_wait, session_members

START_ATTEMPTS = 3
STALL_S = 30.0
"""A start that uses no processor time for this long has stalled."""
IDLE_SHARE = 0.01
"""What idle threads use of a processor."""

_tags = itertools.count()
log = logging.getLogger("triton_server")


class TritonServer:
    """A Triton server with the ``fpga`` backend over one model repository; a context manager.

    Ports of 0 become free ones and stay the same over restarts. ``models`` are loaded at start ("*": all); load and
    unload requests are obeyed later. ``log`` is a file to append the server's log to, ``None`` for one in the run
    directory, or "inherit" for this process's stderr. ``share_ports`` lets the outage responder listen beside the
    server. A start that uses no processor time for ``stall_s`` seconds has stalled. ``extra`` are more of Triton's.

    What changes the server needs ``admin_key``, this user's unless given: a load request brings configurations and
    files of its own, and so any code, and shared memory may be that of the server's own processes.
    """

    def __init__(
        self,
        model_repository: str | os.PathLike[str],
        *,
        http_port: int = 0,
        grpc_port: int = 0,
        metrics_port: int = 0,
        address: str = "127.0.0.1",
        models: Sequence[str] = ("*",),
        log: str | os.PathLike[str] | None = None,
        environment: Mapping[str, str] | None = None,
        exit_timeout_s: float = 5.0,
        admin_key: str | None = None,
        shm_default_bytes: int = 8 << 20,
        share_ports: bool = False,
        auto_complete: bool | None = True,
        stall_s: float = STALL_S,
        extra: Sequence[str] = (),
    ) -> None:
        self.model_repository = Path(model_repository).resolve()
        self.address = address
        self._wanted_ports = (http_port, grpc_port, metrics_port)
        self.models = tuple(models)
        self.http_port = self.grpc_port = self.metrics_port = 0
        self.exit_timeout_s = exit_timeout_s
        self.admin_key = admin_key or _own_key()
        self.environment = dict(environment or {})
        """Added to this process's environment for the server."""
        self._shm_default_bytes = shm_default_bytes
        self._share_ports = share_ports
        self.auto_complete = auto_complete
        """Whether Triton may complete configurations: costs a second and a process a model at each start. None: only
        where one in the repository needs it, so that none which does can be loaded later."""
        self._stall_s = stall_s
        self._extra = tuple(extra)
        self._log = log
        self.shm_prefix = shared_memory.make_prefix(next(_tags))
        self._process: subprocess.Popen[bytes] | None = None
        self._returncode: int | None = None
        self._exited = threading.Event()
        self.abort = threading.Event()
        """Set from another thread, or a signal handler, to give up a start."""
        self._run: Path | None = None
        self.log_path: Path | None = None
        self.abilities: Abilities | None = None
        """What the Triton that was found can do; None before ``prepare``."""
        self.version = ""
        """Triton's version, as it says itself; empty before it has started once."""

    # -- addresses

    @property
    def client_host(self) -> str:
        """The address a client on this machine reaches the server at."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.address, self.address)  # noqa: S104 - compared, not bound

    @property
    def http_url(self) -> str:
        """host:port, as tritonclient.http takes it."""
        return f"{self.client_host}:{self.http_port}"

    @property
    def grpc_url(self) -> str:
        """host:port, as tritonclient.grpc takes it."""
        return f"{self.client_host}:{self.grpc_port}"

    @property
    def metrics_url(self) -> str:
        """The Prometheus page of the server."""
        return f"http://{self.client_host}:{self.metrics_port}/metrics"

    @property
    def control(self) -> Control:
        """The control API of this server, with the admin key."""
        return Control(self.client_host, self.http_port, {ADMIN_HEADER: self.admin_key})

    def triton(self) -> Json:
        """Which Triton this is and what it can do, for a program."""
        return {"version": self.version, "abilities": self.abilities.as_json() if self.abilities is not None else {}}

    # -- life

    @property
    def pid(self) -> int | None:
        """The server's process id, None when it does not run."""
        return None if self._process is None or self._exited.is_set() else self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there (not whether it serves)."""
        return self.pid is not None

    def start(self, timeout_s: float | None = 600.0) -> Self:
        """Start and wait until ready. A model that fails to load does not stop the others: see ``control.index()``.

        A start that stalls is repeated: Triton waits for ever for a stub that it gave up while it loaded, which happens
        on a machine so busy that the stub could not report for a second.

        Raises ServerNotFoundError, or ServerStartError with the end of the log. ``timeout_s=None`` does not wait.
        """
        if self.running:
            raise ServerError("the server already runs")
        installation = self.prepare()
        shared_memory.clean_stale()
        for attempt in range(START_ATTEMPTS):
            try:
                self._run = Path(tempfile.mkdtemp(prefix=self.shm_prefix))
                self._launch(installation, self._run)
                if timeout_s is not None:
                    self.wait_ready(timeout_s)
            except ServerStalledError:
                self.kill()
                if attempt + 1 == START_ATTEMPTS:
                    raise
            except BaseException:
                self.kill()
                raise
            else:
                break
        return self

    def prepare(self) -> Installation:
        """What start does first: ``check_start``, and settle the ports (once for all).

        Raises ServerNotFoundError or ServerStartError.
        """
        installation = check_start(self.model_repository)
        self._tell_abilities(installation.abilities)
        if not self.http_port:
            self.http_port, self.grpc_port, self.metrics_port = resolve_ports(self.address, self._wanted_ports)
        return installation

    def wait_ready(self, timeout_s: float = 600.0) -> None:
        """Wait until the server says that it is up.

        Raises ServerStalledError when it does nothing at all for ``stall_s`` seconds, ServerStartError when it ends
        first or takes too long.
        """
        deadline = time.monotonic() + timeout_s
        worked, worked_at = 0.0, time.monotonic()
        while not self._serving():
            if self._exited.is_set():
                raise ServerStartError(f"tritonserver ended at start (exit code {self.returncode})\n{self.log_tail()}")
            if self.abort.is_set():
                raise ServerStartError("stopped before it was ready")
            if time.monotonic() > deadline:
                raise ServerStartError(f"tritonserver is not ready after {timeout_s:g} s\n{self.log_tail()}")
            work = sum(cpu_seconds(pid) for pid in session_members(self.pid or -1))
            if work > worked + self._stall_s * IDLE_SHARE:
                worked, worked_at = work, time.monotonic()
            elif time.monotonic() > worked_at + self._stall_s:
                raise ServerStalledError(f"tritonserver has done nothing for {self._stall_s:g} s\n{self.log_tail()}")
            self._exited.wait(0.05)
        if self.pid is not None:
            hide_argument(self.pid, self.admin_key)
        self.protect()
        if not self._share_ports:  # else the outage responder might answer; who closes it asks
            self.ask_version()

    def protect(self) -> None:
        """Close the shared memory that holds requests to other users; Triton opens it to all, whatever the umask."""
        for region in shared_memory.regions(self.shm_prefix):
            with contextlib.suppress(OSError):
                region.chmod(0o600)

    def stop(self, timeout_s: float | None = None) -> bool:
        """End the server: SIGTERM, then SIGKILL after ``timeout_s`` (default: exit_timeout_s + 1 s).

        Triton's own exit time-out does not bound a busy or dead stub, this does. Its stubs, shared memory and run
        directory are gone afterwards. Returns whether it ended in time by itself.
        """
        process = self._process
        clean = True
        if process is not None and not self._exited.is_set():
            limit = self.exit_timeout_s + 1.0 if timeout_s is None else timeout_s
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            clean = self._wait_for_end(process.pid, time.monotonic() + limit)
        self._end()
        self._clean_up()
        return clean

    def _wait_for_end(self, pid: int, deadline: float) -> bool:
        """Wait until the server has ended, or has nothing left to do: then whoever waits for it waits in vain.

        Triton answers what is in flight, then unloads its models, which ends the stubs, then looks once a second
        whether it has done so, and lingers for another second.
        """
        while time.monotonic() < deadline:
            if self._exited.wait(0.02) or not find_stubs(pid):
                self._exited.wait(0.1)
                return True
        return False

    def kill(self) -> None:
        """End the server at once (SIGKILL) and remove what it leaves."""
        self._end()
        self._clean_up()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the process ends; returns whether it did."""
        return self._exited.wait(timeout_s)

    @property
    def returncode(self) -> int | None:
        """The exit code, None while it runs."""
        return self._returncode if self._process is None else self._process.returncode

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of the log, empty when it goes to stderr."""
        if self.log_path is None or not self.log_path.is_file():
            return ""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])

    # -- inside

    def _tell_abilities(self, abilities: Abilities) -> None:
        """Log what this Triton can do and how that was found out, once."""
        if abilities == self.abilities:
            return
        self.abilities = abilities
        for line in abilities.lines():
            log.debug("Triton's ability %s", line)
        for ability, reason in abilities.undetermined.items():
            log.warning(
                "it cannot be told whether this Triton has the ability %s (taken as absent): %s", ability, reason
            )

    def ask_version(self) -> None:
        """Learn Triton's version from the running server; nothing depends on it but what people read."""
        try:
            version = self.control.version()
        except (OSError, ServerError) as error:
            log.warning("Triton does not tell its version: %s", error)
            return
        if version != self.version:
            self.version = version
            known = ".".join(map(str, NEWEST_KNOWN))
            log.debug("Triton %s", version)
            if newer_than_known(version):
                log.warning(
                    "Triton %s is newer than any that the plugin was tried with (%s); what it can do was found "
                    "out by looking",
                    version,
                    known,
                )

    def _command(self, installation: Installation, backends: Path) -> list[str]:
        completes = self.auto_complete
        if completes is None:
            completes = bool(verify_repository(self.model_repository).incomplete)
        return [
            str(installation.binary),
            f"--model-repository={plain_path(backends.parent, self.model_repository)}",
            f"--backend-directory={backends}",
            f"--cache-directory={installation.caches}",
            *launch.listening(
                self.address, self.http_port, self.grpc_port, self.metrics_port, shared=self._share_ports
            ),
            *launch.serving(self.models, completes=completes, exit_timeout_s=self.exit_timeout_s),
            *launch.stubs(self.shm_prefix, self._shm_default_bytes),
            *launch.restricted(self.admin_key),
            *launch.client_shared_memory(installation.abilities),
            "--allow-gpu-metrics=false",
            "--pinned-memory-pool-byte-size=0",
            *self._extra,
        ]  # fmt: skip

    def _launch(self, installation: Installation, run: Path) -> None:
        backends = assemble(run, installation, backend_folder(), launch.packages())
        if self._log != "inherit":
            self.log_path = Path(self._log) if self._log is not None else run / "tritonserver.log"
        command = self._command(installation, backends)
        environment = launch.environment(installation, self.environment)
        self._process, self._exited = launch.launch(command, environment, self.log_path)

    def _serving(self) -> bool:
        """Whether every end point is up.

        Triton opens them after the first loads, the metrics last, and that port is shared with no outage responder. Its
        own readiness would stay false for ever when one model failed to load.
        """
        try:
            Control(self.client_host, self.metrics_port).request("GET", "/metrics", timeout=2.0)
        except (OSError, ServerError):
            return False
        return True

    def _end(self) -> None:
        """The server and every process of its session: a stub whose server has died has no parent to be found by."""
        process, self._process = self._process, None
        if process is None:
            return
        self._returncode = process.returncode
        members = session_members(process.pid)
        if not self._exited.is_set():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            self._exited.wait(10.0)
            self._returncode = process.returncode
        kill_and_wait(members)

    def _clean_up(self) -> None:
        shared_memory.clean(self.shm_prefix)
        if self._run is not None:
            shutil.rmtree(self._run, ignore_errors=True)
            self._run = None


def check_start(model_repository: Path) -> Installation:
    """Find the server, and check all that a start needs; nothing is made.

    Raises ServerNotFoundError, or ServerStartError for a repository or a folder of temporary files that is of no use.
    """
    installation = find_installation()
    check_python(installation)
    check_numpy(installation)
    if not model_repository.is_dir():
        raise ServerStartError(
            f"no model repository at {model_repository}: expected a folder of models. The shipped ones are "
            f"copied there by: triton-fpga models {model_repository}"
        )
    if not os.access(model_repository, os.R_OK | os.X_OK):
        raise ServerStartError(f"cannot read {model_repository}: let user {os.getuid()} read it")
    temporary = tempfile.gettempdir()
    if not is_plain(temporary):
        raise ServerStartError(
            f"cannot use {temporary!r} for temporary files, since Triton starts its workers through a shell: set "
            "TMPDIR to a folder without spaces and quotes in its path"
        )
    return installation


def _own_key() -> str:
    """This user's key, or one that nobody knows where it cannot be kept."""
    try:
        return read_or_make(default_path())
    except OSError:
        return secrets.token_urlsafe(32)
