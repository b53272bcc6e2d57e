"""Keeps the server serving without a human: notices, tells what is wrong, mends, and says the truth about it.

Triton 2.51 never restarts a dead Python stub and stays "ready" with it; unloading the model does not help when requests
were in flight (the state stays UNLOADING). So there is one cure for everything: open the gate, end the whole server at
once, start it again. The other models are away for the same two or three seconds; their clients too get an immediate
UNAVAILABLE, which is worth a retry.

    dead    a stub or the server has ended                       noticed from the kernel (pidfd), within milliseconds
    hung    no known answer, no other progress, no processor use  noticed by the probe
    slow    the known answer comes, late                          reported, not restarted
    wrong   the known answer comes and differs                    restarted when it happens twice in a row
    memory  the server holds more than it may                     noticed within a quarter of a second
    full    the server can soon take no more connections          the same
    lost    the model has no device left                          told by its answer; the model alone is loaded anew
"""

import contextlib
import logging
import os
import re
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from triton_server.errors import ControlError, ServerError, ServerStartError
from triton_server.protocol import NOTES_VARIABLE, Code, code_of
from triton_server.repository.admission import Verdict, pinned, verify_repository, versions
from triton_server.server.control_api import Control, Json
from triton_server.server.server import TritonServer
from triton_server.supervisor.outage_responder import Gate
from triton_server.supervisor.probe import KnownAnswer, ask, known_answer
from triton_server.supervisor.processes import (
    any_ended,
    ended_by_itself,
    files_allowed,
    find_stubs,
    open_files,
    private_bytes,
    state,
    tree_cpu_seconds,
)

log = logging.getLogger("triton_server")

BACKOFF_S = (0.0, 0.0, 0.0, 0.5, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Wait before the n-th restart of a series; a series ends after CALM_S without one."""
CALM_S = 60.0


GIVEN_UP = "is not healthy"
"""In Triton's answer when it has given up a stub that died, or did not report for a second."""
DIED_S = 0.03
"""A stub that was killed counts as dead when Triton has not waited for it after this time."""
TOLD_S = 2.0
"""The same for one that ended by itself with exit code 0."""
FULL = 0.9
"""Share of the file descriptors that the server may open."""
RETRY_S = (5.0, 600.0)
"""Pause before what Triton refused is loaded once more, doubled up to the second: a device may be free later."""
WRONG_RESTARTS, WRONG_S = 2, 600.0
"""Restarts in so many seconds for one version's wrong answers; if they go on, it is unloaded."""
RELOAD_S = 30.0
"""Pause before a model that has lost all its devices once more is loaded anew once more."""
ASIDE_S = 60.0
"""Pause before a version whose known answer was refused is asked again."""
LOADS = 3
"""How often in a row a model is loaded again whose stub dies meanwhile."""


class ModelState(StrEnum):
    """What the last probe of a model version said."""

    SERVING = "serving"
    SLOW = "slow"
    BUSY = "busy"
    WRONG = "wrong"
    HUNG = "hung"
    LOST = "lost"
    UNKNOWN = "unknown"


@dataclass
class ModelHealth:
    """One served model version as the supervisor sees it."""

    known: KnownAnswer
    files: tuple[tuple[str, int, int], ...] = ()
    """Of the version's folder, to notice that it was replaced."""
    state: ModelState = ModelState.UNKNOWN
    detail: str = ""
    probe_s: float = 0.0
    wrong_in_a_row: int = 0
    last_good: float = field(default_factory=time.monotonic)
    device: str = ""
    precision: str = ""
    kernel: str = ""
    failovers: int = 0
    """Devices of this version that were taken out of service since the server started."""
    progress: int = 0
    cpu_s: float = 0.0
    progress_at: float = field(default_factory=time.monotonic)

    @property
    def serves(self) -> bool:
        """Whether requests are answered, and rightly."""
        return self.state in (ModelState.SERVING, ModelState.SLOW, ModelState.BUSY)


@dataclass(frozen=True)
class Aside:
    """A version that is not supervised, so that it does not take the others with it."""

    files: tuple[tuple[str, int, int], ...]
    reason: str
    until: float
    """When it is asked again; infinite for one that was unloaded."""


@dataclass(frozen=True)
class Limits:
    """The supervisor's times in seconds, and the server's memory in bytes."""

    probe_interval: float = 2.0
    slow: float = 1.0
    """A probe that takes longer is slow."""
    hung: float = 4.0
    """No answer and no sign of work for this long is hung."""
    hung_at_work: float = 120.0
    """The same for an instance that uses the processor, as numpy's reference does for seconds."""
    watch_interval: float = 0.25
    repository_interval: float = 2.0
    server_bytes: int = 2 << 30
    """Memory of the server's own process, without the models'. Triton takes requests of any size, from as many clients
    as come, and keeps the buffers of large ones."""


class Supervisor:
    """Runs one TritonServer until ``stop``; see the module's text. ``run`` blocks, ``start`` and ``stop`` do not."""

    def __init__(
        self, server: TritonServer, *, limits: Limits | None = None, watch_repository: bool = True,
        strict_device: bool = False, drain_s: float = 0.0, on_ready: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self.server = server
        self.limits = limits or Limits()
        self.models: dict[tuple[str, str], ModelHealth] = {}
        self.refused: dict[str, str] = {}
        """Models that Triton or the verification refused, with the reason."""
        self.restarts: dict[str, int] = {}
        """Restarts by cause."""
        self.last_outage_s = 0.0
        self._watch_repository = watch_repository
        self._strict_device = strict_device
        self._drain_s = drain_s
        self._on_ready = on_ready
        self._stop = threading.Event()
        self._at_once = threading.Event()
        self._trouble: deque[tuple[str, str]] = deque()
        self._wake = threading.Event()
        self._up = False
        self._series = 0
        self._last_start = 0.0
        self._lock = threading.Lock()
        self._generation = 0
        self._pidfds: dict[int, tuple[int, str]] = {}
        self._fingerprints: dict[str, tuple[tuple[str, int, int], ...]] = {}
        self._loads: Counter[str] = Counter()
        self._aside: dict[tuple[str, str], Aside] = {}
        self._wrong: dict[tuple[str, str], list[float]] = {}
        """When the server was restarted for a version's wrong answers."""
        self._behind: set[str] = set()
        """Models whose files changed since they were loaded."""
        self._fallen: dict[str, tuple[tuple[tuple[str, int, int], ...], str]] = {}
        """Models that serve an older version: their files then, and why the newest is refused."""
        self._anew: dict[str, float] = {}
        """When a model that loses its last device may be loaded anew once more."""
        self._index_error = ""
        self._retries: dict[str, tuple[float, float]] = {}
        """Of each model that is not served: when it is loaded once more, and the pause after that."""

    # -- what the world asks

    @property
    def live(self) -> bool:
        """Whether the supervisor works (it restarts the server when needed)."""
        return not self._stop.is_set()

    @property
    def ready(self) -> bool:
        """Whether every model that was loaded answers its known answer. False while the server is away.

        With ``strict_device`` also false when a model serves on another device than its first.
        """
        with self._lock:
            return self._ready()

    def _ready(self) -> bool:
        return (
            self._up
            and self.server.running
            and bool(self.models)
            and all(health.serves for health in self.models.values())
            and not (self._strict_device and any(health.failovers for health in self.models.values()))
        )

    def status(self) -> Json:
        """Everything above, for a program."""
        with self._lock:
            return {
                "live": self.live,
                "ready": self._ready(),
                "up": self._up,
                "models": [
                    {
                        "model": model, "version": version, "state": str(health.state), "detail": health.detail,
                        "probe_ms": round(health.probe_s * 1e3, 3), "device": health.device,
                        "precision": health.precision, "kernel": health.kernel, "failovers": health.failovers,
                    }
                    for (model, version), health in sorted(self.models.items())
                ],
                "refused": dict(self.refused),
                "restarts": dict(self.restarts),
                "last_outage_s": round(self.last_outage_s, 3),
                "server_pid": self.server.pid,
            }  # fmt: skip

    # -- life

    def run(self) -> None:
        """Start the server and keep it until ``stop`` is called. Raises ServerError when the first start fails."""
        gate = None
        threads: list[threading.Thread] = []
        notes = tempfile.TemporaryDirectory(prefix=self.server.shm_prefix)
        self.server.environment[NOTES_VARIABLE] = notes.name
        try:
            self.server.prepare()
            gate = Gate(self.server.address, self.server.http_port, self.server.grpc_port)
            gate.open("the model server is starting")
            try:
                self._start_server(gate)
            except ServerError:
                if self._stop.is_set():
                    return
                raise
            self._probe_all()
            self._on_ready()
            for work in (self._watch_processes, self._probe_for_ever, self._follow_repository):
                thread = threading.Thread(target=self._keep_on, args=(work,), name=work.__name__, daemon=True)
                thread.start()
                threads.append(thread)
            while not self._stop.is_set():
                self._wake.wait()
                self._wake.clear()
                if self._trouble and not self._stop.is_set():
                    self._restart(gate, *self._trouble[0])
        finally:
            self._stop.set()
            draining = self._up and self.server.running
            self._up = False
            if gate is not None:
                gate.close()
            if draining:  # Triton takes its models away while it still accepts requests
                self._at_once.wait(self._drain_s)
            began = time.monotonic()
            clean = self.server.stop()
            notes.cleanup()
            log.info("stopped in %.1f s%s", time.monotonic() - began, "" if clean else " (had to be killed)")
            for thread in threads:
                thread.join(5.0)

    def stop(self) -> None:
        """End ``run``, not ready at once and without the server after ``drain_s``, or at once when called again.

        From any thread, but not from a signal handler: it takes locks that the interrupted code may hold.
        """
        if self._stop.is_set():
            self._at_once.set()
        self._stop.set()
        self.server.abort.set()
        self._wake.set()

    def _keep_on(self, work: Callable[[], None]) -> None:
        """A fault in the watching is logged and the watching goes on: nobody watches the watcher."""
        while not self._stop.is_set():
            try:
                work()
            except Exception:
                log.exception("%s failed and starts again", work.__name__)
                self._stop.wait(1.0)

    # -- starting and restarting

    def _start_server(self, gate: Gate) -> None:
        verdict = verify_repository(self.server.model_repository)
        for model, reason in verdict.refused.items():
            log.error("model '%s' is not loaded: %s", model, reason)
        self.server.models = tuple(verdict.accepted) if verdict.refused else ("*",)
        # After a failure every second counts: Triton completes configurations only where one needs it.
        if self.server.auto_complete is not None:
            self.server.auto_complete = not self.restarts or bool(verdict.incomplete)
        self._fingerprints = fingerprints(self.server.model_repository)
        self._behind.clear()
        self._fallen.clear()
        self.server.start()
        gate.close()
        self._last_start = time.monotonic()
        try:
            self._learn(verdict)
            self._load_again()
            self._fall_back(verdict)
        except OSError as error:
            raise ServerStartError(f"the server started and then did not answer for its models: {error}") from error
        with self._lock:
            self._generation += 1
            self._trouble.clear()
            self._up = True

    def _restart(self, gate: Gate, cause: str, detail: str) -> None:
        began = time.monotonic()
        log.error("%s: %s; restarting the server", cause, detail)
        with self._lock:
            self._up = False
            self.restarts[cause] = self.restarts.get(cause, 0) + 1
        gate.open(f"the model server is restarting ({cause})")
        self._kill()
        if began - self._last_start > CALM_S:
            self._series = 0
        while not self._stop.is_set():
            pause = BACKOFF_S[min(self._series, len(BACKOFF_S) - 1)]
            self._series += 1
            if self._stop.wait(pause):
                return
            try:
                self._start_server(gate)
            except Exception as error:
                expected = isinstance(error, ServerError | OSError)  # then the message is the whole story
                log.error("the server does not start: %s", error, exc_info=not expected)  # noqa: TRY400 - see above
                self._kill()
                gate.open("the model server does not start")
            else:
                break
        if self._stop.is_set():
            return
        with self._lock:
            self.last_outage_s = time.monotonic() - began
        self._probe_all()
        log.warning("serving again after %.1f s", self.last_outage_s)

    def _kill(self) -> None:
        """End the server; what cannot be cleaned up now is found by the next start."""
        try:
            self.server.kill()
        except OSError as error:
            log.error("cannot clean up after the server: %s", error)  # noqa: TRY400 - the message is the whole story

    def _report(self, cause: str, detail: str, generation: int | None = None) -> None:
        """Ask for a restart; ``generation`` says of which start of the server the news is, to drop old news."""
        with self._lock:
            if not self._up or self._stop.is_set() or generation not in (None, self._generation):
                return
            self._trouble.append((cause, detail))
        self._wake.set()

    def _learn(self, verdict: Verdict) -> None:
        """Which versions are served now, each with its known answer, and which models were refused."""
        served: dict[tuple[str, str], ModelHealth] = {}
        new: list[ModelHealth] = []
        refused = dict(verdict.refused)
        ready: set[tuple[str, str]] = set()
        failed: dict[tuple[str, str], str] = {}
        for entry in self._index():
            model, version = str(entry["name"]), str(entry.get("version", ""))
            if entry.get("state") == "READY" and version:
                key = (model, version)
                ready.add(key)
                try:
                    files = version_files(self.server.model_repository / model / version)
                    health = self.models.get(key)
                    if self._is_aside(key, files):
                        continue
                    if health is None or (health.files != files and self._is_loaded(model, version, files)):
                        known = known_answer(self.server.control, self.server.model_repository, model, version)
                        health = ModelHealth(known, files)
                        new.append(health)
                    served[key] = health
                except Exception as error:  # noqa: BLE001 - whatever it is, the other models go on
                    refused[model] = f"no known answer can be asked: {error}"
            elif entry.get("state") == "UNAVAILABLE" and entry.get("reason") not in (None, "unloaded"):
                failed[model, version] = clean_reason(str(entry["reason"]))
        for (model, version), reason in failed.items():
            if not any(name == model and int(newer) > int(version or 0) for name, newer in ready):
                refused[model] = reason
        self._learn_devices(served)
        if self._up:  # else they would count as not serving until the next round
            self._probe_each(new)
        for model, (facts, reason) in list(self._fallen.items()):
            newest = versions(self.server.model_repository / model)[:1]
            if self._fingerprints.get(model) != facts or any((model, str(version)) in served for version in newest):
                del self._fallen[model]
            else:
                refused.setdefault(model, reason)
        with self._lock:
            for key, aside in list(self._aside.items()):
                if key in ready or (aside.until == float("inf") and key[0] in verdict.accepted):
                    refused[key[0]] = aside.reason
                else:
                    del self._aside[key]
            for model in refused.keys() - self.refused.keys():
                log.error("model '%s' is refused: %s", model, refused[model])
            self.models = {key: health for key, health in served.items() if key not in self._aside}
            self.refused = refused

    def _index(self) -> list[Json]:
        """What Triton serves; without the reasons of refusals where it cannot list the repository."""
        try:
            return self.server.control.index()
        except ControlError as error:
            if str(error) != self._index_error:
                log.warning("Triton cannot list the repository: %s", error)
                self._index_error = str(error)
        return [{**entry, "state": "READY"} for entry in self.server.control.statistics()]

    def _is_loaded(self, model: str, version: str, files: tuple[tuple[str, int, int], ...]) -> bool:
        """Whether the files of a version that Triton serves are those that it loaded, and not newer ones."""
        if not self._watch_repository:
            return True
        loaded = {(f"{version}/{name}", *rest) for name, *rest in files} <= set(self._fingerprints.get(model, ()))
        return loaded and model not in self._behind

    def _is_aside(self, key: tuple[str, str], files: tuple[tuple[str, int, int], ...]) -> bool:
        """Whether a version that is loaded is not asked: until its time comes, its files change, or it is loaded."""
        aside = self._aside.get(key)
        if aside is None:
            return False
        if aside.files == files and time.monotonic() < aside.until < float("inf"):
            return True
        del self._aside[key]
        return False

    def _set_aside(self, health: ModelHealth, reason: str, until: float) -> None:
        """No longer supervise a version; what it is asked says nothing about the server."""
        key = (health.known.model, health.known.version)
        with self._lock:
            if self.refused.get(key[0]) != reason:
                log.error("%s version %s: %s", *key, reason)
            self._aside[key] = Aside(health.files, reason, until)
            self.models.pop(key, None)
            self.refused[key[0]] = reason

    def _load(self, model: str, *, anew: bool = False) -> str:
        """Load a model as it is on disk, ``anew`` even where nothing changed. Returns why Triton refuses, or nothing.

        Raises TimeoutError when it does not end, which costs a restart.
        """
        try:
            if anew:
                self.server.control.unload(model)
            self.server.control.load(model)
        except TimeoutError:
            self._report("stalled", f"the load of model '{model}' does not end")
            raise
        except ControlError as error:
            return clean_reason(str(error))
        self._behind.discard(model)
        return ""

    def _load_again(self) -> None:
        """Load again what is refused because its stub died: it then tries the device of its end in a child first."""
        for served, _ in self.models:
            self._loads.pop(served, None)
        while died := [m for m, reason in self.refused.items() if GIVEN_UP in reason and self._loads[m] < LOADS]:
            for model in died:
                self._loads[model] += 1
                log.warning("model '%s' is loaded again, since its stub died meanwhile", model)
                self._load(model)  # why not is in the index
            self._learn(verify_repository(self.server.model_repository))

    def _learn_devices(self, served: Mapping[tuple[str, str], ModelHealth]) -> None:
        """What answers, from the plugin's own metrics."""
        page = Control(self.server.client_host, self.server.metrics_port)
        try:
            text = page.request("GET", "/metrics").decode()
        except (OSError, ServerError):
            return
        failovers: dict[tuple[str, str], int] = {}
        for name, labels, value in read_metrics(text):
            key = (labels.get("model", ""), labels.get("version", ""))
            health = served.get(key)
            if health is None:
                continue
            if name == "fpga_model_info" and value > 0:
                health.device, health.precision, health.kernel = (labels[k] for k in ("device", "precision", "kernel"))
            elif name == "fpga_failovers_total":
                failovers[key] = failovers.get(key, 0) + int(value)
        for key, health in served.items():
            health.failovers = failovers.get(key, 0)

    # -- dead

    def _follow_processes(self) -> None:
        pid = self.server.pid
        if pid is None:
            return
        wanted = {pid: "the server"} | {stub.pid: f"the stub of {stub.instance}" for stub in find_stubs(pid)}
        known = {followed for followed, _ in self._pidfds.values()}
        if wanted.keys() - known:
            self.server.protect()
        for process in wanted.keys() - known:
            with contextlib.suppress(ProcessLookupError):
                self._pidfds[os.pidfd_open(process)] = (process, wanted[process])

    def _forget_processes(self) -> None:
        for descriptor in list(self._pidfds):
            self._forget(descriptor)

    def _forget(self, descriptor: int) -> None:
        if self._pidfds.pop(descriptor, None) is not None:
            os.close(descriptor)

    def _watch_processes(self) -> None:
        generation = -1
        while not self._stop.is_set():
            if not self._up:
                self._stop.wait(0.02)
                continue
            if generation != self._generation:
                generation = self._generation
                self._forget_processes()
            self._follow_processes()
            for descriptor, (pid, name) in list(self._pidfds.items()):
                if state(pid) == "T" and name != "the server":
                    self._forget(descriptor)
                    self._report("hung", f"{name} (process {pid}) is stopped", generation)
            self._watch_limits(generation)
            for descriptor in any_ended(list(self._pidfds), self.limits.watch_interval):
                pid, name = self._pidfds[descriptor]
                if name != "the server" and self._was_told_to_end(pid):
                    self._forget(descriptor)
                    continue
                self._forget(descriptor)
                self._report("dead", f"{name} (process {pid}) has ended", generation)

    def _watch_limits(self, generation: int) -> None:
        pid = self.server.pid or -1
        held, limit = private_bytes(pid), self.limits.server_bytes
        if held > limit:
            self._report("memory", f"the server holds {held >> 20} MB, more than {limit >> 20}", generation)
        files, allowed = open_files(pid), files_allowed()
        if files > FULL * allowed:
            detail = f"the server has {files} files and connections open, and may have {allowed}"
            self._report("full", detail, generation)

    @staticmethod
    def _was_told_to_end(pid: int) -> bool:
        """Triton waits for a stub that it ends itself, and never for one that died: that one stays a zombie.

        On a busy machine Triton is late. A stub that it told to end does so with 0, and one that died hardly ever.
        """
        began = time.monotonic()
        while state(pid) == "Z":
            if time.monotonic() > began + (TOLD_S if ended_by_itself(pid) else DIED_S):
                return False
            time.sleep(0.003)
        return True

    # -- hung, slow, wrong

    def _probe_for_ever(self) -> None:
        while not self._stop.wait(self.limits.probe_interval):
            if self._up:
                self._probe_all()

    def _probe_all(self) -> None:
        with self._lock:
            healths = list(self.models.values())
        self._probe_each(healths)

    def _probe_each(self, healths: list[ModelHealth]) -> None:
        threads = [threading.Thread(target=self._probe, args=(health,), daemon=True) for health in healths]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(self.limits.hung + 1.0)

    def _probe(self, health: ModelHealth) -> None:
        known = health.known
        began = time.monotonic()
        try:
            answer = ask(self.server.control, known, self.limits.hung)
        except ControlError as error:
            if not self._up or self._gone(known):
                return
            # Refused at once is an overloaded queue (503, 429) or what was asked (400); anything else is a model that
            # does not do its work.
            busy = error.status in (429, 503)
            if code_of(str(error)) is Code.NO_DEVICE:
                self._judge(health, ModelState.LOST, str(error), began)
                return
            if 400 <= error.status < 500 and not busy:
                until = time.monotonic() + ASIDE_S
                self._set_aside(health, f"its known answer cannot be asked: {error}", until)
                return
            if GIVEN_UP in str(error):
                self._report("hung", f"{known.model} version {known.version}: {error}")
            self._judge(health, ModelState.BUSY if busy else ModelState.WRONG, str(error), began)
        except OSError as error:
            if not self._up or self._gone(known):
                return
            self._judge_silence(health, error, began)
        else:
            slow = time.monotonic() - began > self.limits.slow
            good = ModelState.SLOW if slow else ModelState.SERVING
            self._judge(health, good if answer.correct else ModelState.WRONG, answer.detail, began)

    def _judge(self, health: ModelHealth, verdict: ModelState, detail: str, began: float) -> None:
        now = time.monotonic()
        name = f"{health.known.model} version {health.known.version}"
        if verdict is not health.state:
            level = logging.INFO if verdict in (ModelState.SERVING, ModelState.BUSY) else logging.WARNING
            log.log(level, "%s: %s (%s)", name, verdict, detail)
        health.state, health.detail, health.probe_s = verdict, detail, now - began
        health.wrong_in_a_row = health.wrong_in_a_row + 1 if verdict is ModelState.WRONG else 0
        if health.serves:
            health.last_good = health.progress_at = now
        if health.wrong_in_a_row >= 2:
            health.wrong_in_a_row = 0
            self._act_on_wrong(health, f"{name}: {detail}")

    def _act_on_wrong(self, health: ModelHealth, detail: str) -> None:
        """Restart the server; where that has not helped, unload the model, which is better than wrong answers."""
        now = time.monotonic()
        key = (health.known.model, health.known.version)
        restarts = self._wrong[key] = [at for at in self._wrong.get(key, []) if now - at < WRONG_S]
        if len(restarts) < WRONG_RESTARTS:
            restarts.append(now)
            self._report("wrong", detail)
            return
        reason = f"it is wrong after {len(restarts)} restarts, too, and was unloaded: {detail}"
        with contextlib.suppress(OSError, ServerError):
            self.server.control.unload(health.known.model)
        self._set_aside(health, reason, float("inf"))

    def _judge_silence(self, health: ModelHealth, error: OSError, began: float) -> None:
        """No answer in time: hung, unless other requests are answered or the processor is used."""
        known = health.known
        name = f"{known.model} version {known.version}"
        now = time.monotonic()
        progress, cpu = health.progress, health.cpu_s
        with contextlib.suppress(OSError, ServerError, KeyError, TypeError):
            for entry in self.server.control.statistics():
                if (entry["name"], entry["version"]) == (known.model, known.version):
                    progress = int(entry["inference_stats"]["success"]["count"])
        pid = self.server.pid
        if pid is not None:
            cpu = sum(tree_cpu_seconds(s.pid) for s in find_stubs(pid) if s.runs(known.model))
        at_work = cpu - health.cpu_s > 0.3 * (now - began)
        moved = progress != health.progress
        health.progress, health.cpu_s = progress, cpu
        if moved:
            health.progress_at = now
        silent = now - health.progress_at
        if moved or (at_work and silent < self.limits.hung_at_work):
            self._judge(health, ModelState.SLOW, f"no known answer in {self.limits.hung:g} s, but at work", began)
            health.progress_at = now - silent
            return
        self._judge(health, ModelState.HUNG, f"{type(error).__name__}: {error}", began)
        self._report("hung", f"{name} has not answered for {silent:.1f} s")

    def _gone(self, known: KnownAnswer) -> bool:
        """Whether the version was unloaded on purpose since it was learnt: then it is not our business."""
        try:
            index = self.server.control.index(timeout=2.0)
        except (OSError, ServerError):
            return False
        gone = not any(
            entry["name"] == known.model and str(entry.get("version")) == known.version
            and entry.get("state") == "READY" for entry in index
        )  # fmt: skip
        if gone:
            with self._lock:
                self.models.pop((known.model, known.version), None)
        return gone

    # -- the repository

    def _follow_repository(self) -> None:
        """Learn what others loaded or unloaded, and load what changed on disk."""
        while not self._stop.wait(self.limits.repository_interval):
            if not self._up:
                continue
            try:
                if self._watch_repository:
                    self._load_changes()
                if self._up:
                    verdict = verify_repository(self.server.model_repository)
                    self._learn(verdict)
                    self._load_again()
                    self._load_later(verdict)
                    self._load_anew()
            except (OSError, ServerError, ValueError) as error:
                if self._up:
                    log.warning("cannot follow the repository: %s", error)

    def _fall_back(self, verdict: Verdict) -> None:
        """Serve an older version where the newest is faulty, as before the restart, of which Triton knows nothing."""
        served = {model for model, _ in (*self.models, *self._aside)}
        for model in sorted((self.refused.keys() & set(verdict.accepted)) - served):
            if GIVEN_UP in self.refused[model]:
                continue
            folder = self.server.model_repository / model
            for version in versions(folder)[1:]:
                with contextlib.suppress(ControlError, OSError, ValueError):
                    self.server.control.load(model, config=pinned(folder, version))
                    log.warning("model '%s': version %d serves, since the newest is refused", model, version)
                    self._fallen[model] = (self._fingerprints.get(model, ()), self.refused[model])
                    break
        if self._fallen:
            self._learn(verdict)

    def _load_later(self, verdict: Verdict) -> None:
        """Try again, ever more rarely, what Triton refused and the verification does not: the cause may have gone."""
        served = {model for model, _ in (*self.models, *self._aside)}
        waiting = self.refused.keys() - verdict.refused.keys() - served
        now = time.monotonic()
        self._retries = {
            model: self._retries.get(model, (now + RETRY_S[0], 2 * RETRY_S[0])) for model in sorted(waiting)
        }
        for model, (due, pause) in list(self._retries.items()):
            if now < due or self._stop.is_set():
                continue
            self._retries[model] = (now + pause, min(2 * pause, RETRY_S[1]))
            if not self._load(model):
                log.warning("model '%s', which was refused, was loaded", model)

    def _load_anew(self) -> None:
        """Try the devices of a model again from the first, when it has lost the last; the others serve meanwhile."""
        lost = {model for (model, _), health in list(self.models.items()) if health.state is ModelState.LOST}
        for model in sorted(lost):
            if time.monotonic() < self._anew.get(model, 0.0):
                continue
            self._anew[model] = time.monotonic() + RELOAD_S
            log.error("model '%s' has lost its last device and is loaded anew", model)
            self._load(model, anew=True)  # why not is in the index

    def _load_changes(self) -> None:
        seen = fingerprints(self.server.model_repository)
        changed = [model for model, files in seen.items() if self._fingerprints.get(model) != files]
        removed = self._fingerprints.keys() - seen.keys()
        self._behind.update(changed)
        if changed and self._stop.wait(self.limits.watch_interval):
            return
        if changed and fingerprints(self.server.model_repository) != seen:
            return  # still being written: look again next time
        self._fingerprints = seen
        verdict = verify_repository(self.server.model_repository)
        for model in changed:
            if model in verdict.refused:
                log.error("model '%s' changed and is refused: %s", model, verdict.refused[model])
                continue
            if model in verdict.incomplete and not self.server.auto_complete:
                self._report("reconfigured", f"model '{model}' came with a configuration for Triton to complete")
                return
            reason = self._load(model)
            if reason:
                log.error("model '%s' changed and does not load: %s", model, reason)
            else:
                log.info("model '%s' changed and was loaded", model)
        for model in removed:
            with contextlib.suppress(ControlError):
                self.server.control.unload(model)
                log.info("model '%s' was removed and is unloaded", model)


def clean_reason(reason: str) -> str:
    """Triton's reason of a failed load, without the wrapping of our own error: its kind, and where it was raised."""
    text = reason.partition("\n\nAt:")[0]
    return text.removeprefix("Internal: ").removeprefix("TritonModelException: ").strip()


def read_metrics(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Name, labels and value of each line of Prometheus' text format."""
    for line in text.splitlines():
        match = _METRIC.fullmatch(line)
        if match is not None:
            yield match["name"], dict(_LABEL.findall(match["labels"])), float(match["value"])


_METRIC = re.compile(r"(?P<name>[a-zA-Z_:][\w:]*)\{(?P<labels>.*)\} (?P<value>[^ ]+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def fingerprints(repository: Path) -> dict[str, tuple[tuple[str, int, int], ...]]:
    """Path, size and time of change (ns) of every file that decides what a model serves."""
    found: dict[str, tuple[tuple[str, int, int], ...]] = {}
    for model in sorted(repository.iterdir()):
        if not model.is_dir() or model.name.startswith("."):
            continue
        files = _facts(model, [model / "config.pbtxt", *model.glob("[0-9]*/*")])
        if files:
            found[model.name] = files
    return found


def version_files(version: Path) -> tuple[tuple[str, int, int], ...]:
    """The same for one version."""
    return _facts(version, list(version.glob("*")))


def _facts(folder: Path, paths: list[Path]) -> tuple[tuple[str, int, int], ...]:
    facts = []
    for path in sorted(paths):
        with contextlib.suppress(OSError):
            status = path.stat()
            facts.append((str(path.relative_to(folder)), status.st_size, status.st_mtime_ns))
    return tuple(facts)
