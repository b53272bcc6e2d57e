"""Keeps the server serving without a human: notices, tells what is wrong, mends, and says the truth about it.

Triton never restarts a dead Python stub, and up to 2.64 stays "ready" with it; unloading the model does not help when
requests were in flight (the state stays UNLOADING). So there is one cure for everything: let the outage responder
listen, end the whole server at once, start it again. The other models are away for the same two or three seconds; their
clients too get an immediate UNAVAILABLE, which is worth a retry.

    dead    a stub or the server has ended                        noticed from the kernel (pidfd), within milliseconds
    hung    no known answer, no other progress, no processor use  noticed by the probe
    slow    the known answer comes, late                          reported, not restarted
    wrong   the known answer comes and differs                    restarted when it happens twice in a row
    memory  the server holds more than it may                     noticed within a quarter of a second
    full    the server can soon take no more connections          the same
    lost    the model has no device left                          told by its answer; the model alone is loaded anew

Who watches what: ProcessWatch the processes, Prober the answers, RepositoryWatch the files. They put requests into
Restarts, and the loop here obeys them. KeptThreads tells when one of them fails.
"""

import contextlib
import logging
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from triton_server.errors import ServerError
from triton_server.plugin.last_event import read_events
from triton_server.protocol import EVENTS_VARIABLE, NOTES_VARIABLE
from triton_server.server.control_api import Control, Json
from triton_server.server.server import TritonServer
from triton_server.supervisor.activity import SAMPLE_S, Activity
from triton_server.supervisor.limits import Limits
from triton_server.supervisor.models import ModelHealth, ModelTable
from triton_server.supervisor.outage_responder import OutageResponder
from triton_server.supervisor.probe import KnownAnswer, ask
from triton_server.supervisor.probing import Callees, Prober, Work
from triton_server.supervisor.process_watch import ProcessWatch
from triton_server.supervisor.processes import find_stubs, tree_cpu_seconds
from triton_server.supervisor.repository_watch import RepositoryWatch
from triton_server.supervisor.restarts import Request, Restarts
from triton_server.supervisor.threads import KeptThreads

__all__ = ["Limits", "Supervisor"]

log = logging.getLogger("triton_server")

OVERDUE_S = 30.0
"""A round of the watching that takes so much longer than it should is told."""


class Supervisor:
    """Runs one TritonServer until ``stop``; see the module's text. ``run`` blocks, ``start`` and ``stop`` do not."""

    def __init__(
        self, server: TritonServer, *, limits: Limits | None = None, watch_repository: bool = True,
        strict_device: bool = False, drain_s: float = 0.0, show_events: bool = False,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self.server = server
        self.limits = limits or Limits()
        self.models = ModelTable()
        self.restarts = Restarts()
        self._strict_device = strict_device
        self._drain_s = drain_s
        self._show_events = show_events
        self._events: Path | None = None
        self._on_ready = on_ready
        self._stop = threading.Event()
        self._at_once = threading.Event()
        self.threads = KeptThreads(self._stop)
        self.activity = Activity(self._metrics_page)
        self._processes = ProcessWatch(
            server, self.restarts, self.limits, served=lambda: list(self.models.supervised), pause=self._stop.wait
        )
        callees = Callees(
            ask=lambda known, timeout_s: ask(server.control, known, timeout_s),
            work=self._work,
            has_ended=self._processes.has_ended,
            is_loaded=self._is_loaded,
            unload=self._unload,
            fault=lambda error: self.threads.count("prober", error),
        )
        self._prober = Prober(self.models, self.restarts, self.limits, callees)
        self._repository = RepositoryWatch(
            server, self.models, self.restarts, self.limits, probe=self._prober.probe,
            describe=self.activity.describe, pause=self._stop.wait, loads_changes=watch_repository,
        )  # fmt: skip

    # -- what the world asks

    @property
    def live(self) -> bool:
        """Whether the supervisor works (it restarts the server when needed)."""
        return not self._stop.is_set() and self.threads.beats

    @property
    def ready(self) -> bool:
        """Whether every model that was loaded answers its known answer. False while the server is away.

        With ``strict_device`` also false when a model serves on another device than its first. False, too, while one of
        the watching threads fails: then nobody knows.
        """
        return not self.reasons

    @property
    def reasons(self) -> list[str]:
        """Why it is not ready, in words; empty when it is."""
        if not self.restarts.up or not self.server.running:
            return ["the model server is not up"]
        reasons = [f"thread {thread}" for thread in self.threads.unsound]
        reasons += [f"a restart is due ({request.cause}: {request.detail})" for request in self.restarts.requests[:1]]
        models = list(self.models.supervised.values())
        if not models:
            reasons.append("no model is served")
        for health in models:
            if not health.state.serves:
                reasons.append(f"{health.name}: {health.state} ({health.detail})")
            if self._strict_device and not health.on_first:
                reasons.append(f"{health.name}: serves on {health.device}, which is not its first device")
        return reasons

    def status(self) -> Json:
        """Everything above, for a program."""
        rows = self.models.rows()
        done = self.restarts.done
        reasons = self.reasons
        return {
            "live": self.live,
            "ready": not reasons,
            "degraded": any(row["degraded"] for row in rows),
            "reasons": reasons,
            "up": self.restarts.up and not self.restarts.due,
            "models": rows,
            "refused": self.models.refused,
            "restarts": self.restarts.counts,
            "last_restarts": [
                {"at": round(one.at, 1), "cause": one.cause, "detail": one.detail, "outage_s": round(one.outage_s, 3)}
                for one in done
            ],
            "last_outage_s": round(done[-1].outage_s, 3) if done else 0.0,
            "threads": self.threads.rows(),
            "server_pid": self.server.pid,
            "triton": self.server.triton(),
        }

    def events(self) -> list[Json] | None:
        """The last event that each model answered; None where the operator does not show them."""
        return None if self._events is None else read_events(self._events, self.server.model_repository)

    # -- life

    def run(self) -> None:
        """Start the server and keep it until ``stop`` is called. Raises ServerError when the first start fails."""
        responder = None
        notes = tempfile.TemporaryDirectory(prefix=self.server.shm_prefix)
        self.server.environment[NOTES_VARIABLE] = notes.name
        if self._show_events:
            self._events = Path(notes.name) / "events"
            self._events.mkdir(mode=0o700)
            self.server.environment[EVENTS_VARIABLE] = str(self._events)
        try:
            self.server.prepare()
            responder = OutageResponder(self.server.address, self.server.http_port, self.server.grpc_port)
            responder.open("the model server is starting")
            try:
                self._start_server(responder)
            except ServerError:
                if self._stop.is_set():
                    return
                raise
            self._watch_processes()  # one may die of the first question
            self._prober.probe()
            self._on_ready()
            self._start_threads()
            while (request := self.restarts.wait()) is not None:
                self._restart(responder, request)
        finally:
            self._stop.set()
            draining = self.restarts.up and self.server.running
            self.restarts.went_down()
            if responder is not None:
                responder.close()
            if draining:  # Triton takes its models away while it still accepts requests
                self._at_once.wait(self._drain_s)
            began = time.monotonic()
            clean = self.server.stop()
            notes.cleanup()
            log.info("stopped in %.1f s%s", time.monotonic() - began, "" if clean else " (had to be killed)")
            self.threads.join(5.0)
            self._processes.close()

    def stop(self) -> None:
        """End ``run``, not ready at once and without the server after ``drain_s``, or at once when called again.

        From any thread, but not from a signal handler: it takes locks that the interrupted code may hold.
        """
        if self._stop.is_set():
            self._at_once.set()
        self._stop.set()
        self.server.abort.set()
        self.restarts.stop()

    def _watch_processes(self) -> None:
        self.threads.start("processes", self._processes.watch, overdue_s=self.limits.watch_interval + OVERDUE_S)

    def _start_threads(self) -> None:
        limits = self.limits
        once_round = limits.hung + 1.0 + 10.0  # the judging of silence asks the server, too
        self.threads.start("prober", self._probe_in_turn, overdue_s=limits.probe_interval + once_round + OVERDUE_S)
        self.threads.start("repository", self._repository.watch)  # a load takes as long as it takes
        self.threads.start("activity", self._sample_in_turn, overdue_s=SAMPLE_S + OVERDUE_S)

    def _probe_in_turn(self) -> None:
        if not self._stop.wait(self.limits.probe_interval) and self.restarts.up:
            self._prober.probe()

    def _sample_in_turn(self) -> None:
        if not self._stop.wait(SAMPLE_S) and self.restarts.up:
            self.activity.sample()

    # -- starting and restarting

    def _start_server(self, responder: OutageResponder, request: Request | None = None) -> None:
        verdict = self._repository.prepare()
        self.server.models = tuple(verdict.accepted)
        # After a failure every second counts: Triton completes configurations only where one needs it.
        if self.server.auto_complete is not None:
            self.server.auto_complete = request is None or bool(verdict.incomplete)
        self.server.start()
        responder.close()
        self.server.ask_version()
        self._repository.take_over(verdict)
        self.restarts.came_up(request)

    def _restart(self, responder: OutageResponder, request: Request) -> None:
        log.error("%s: %s; restarting the server", request.cause, request.detail)
        self.restarts.went_down(request)
        self._repository.blame(request)
        responder.open(f"the model server is restarting ({request.cause})")
        self._kill()
        while not self._stop.wait(self.restarts.pause()):
            try:
                self._start_server(responder, request)
            except Exception as error:
                expected = isinstance(error, ServerError | OSError)  # then the message is the whole story
                log.error("the server does not start: %s", error, exc_info=not expected)  # noqa: TRY400 - see above
                self._kill()
                responder.open("the model server does not start")
            else:
                break
        if self._stop.is_set():
            return
        self._prober.probe()
        if not self.restarts.due:  # by the first question
            log.warning("serving again after %.1f s", self.restarts.done[-1].outage_s)

    def _kill(self) -> None:
        """End the server; what cannot be cleaned up now is found by the next start."""
        try:
            self.server.kill()
        except OSError as error:
            log.error("cannot clean up after the server: %s", error)  # noqa: TRY400 - the message is the whole story

    # -- what the watchers ask of the server

    def _metrics_page(self) -> str:
        page = Control(self.server.client_host, self.server.metrics_port)
        return page.request("GET", "/metrics").decode(errors="replace")

    def _work(self, health: ModelHealth) -> Work:
        answers, cpu_s = health.progress, health.cpu_s
        with contextlib.suppress(OSError, ServerError, KeyError, TypeError, ValueError):
            for entry in self.server.control.statistics():
                if (entry["name"], entry["version"]) == health.key:
                    answers = int(entry["inference_stats"]["success"]["count"])
        pid = self.server.pid
        if pid is not None:
            cpu_s = sum(tree_cpu_seconds(stub.pid) for stub in find_stubs(pid) if stub.runs(health.known.model))
        return Work(answers, cpu_s)

    def _is_loaded(self, known: KnownAnswer) -> bool:
        try:
            index = self.server.control.index(timeout=2.0)
        except (OSError, ServerError):
            return True  # nothing says that it was unloaded
        return any(
            entry.get("name") == known.model and str(entry.get("version")) == known.version
            and entry.get("state") == "READY" for entry in index
        )  # fmt: skip

    def _unload(self, model: str) -> None:
        with contextlib.suppress(OSError, ServerError):
            self.server.control.unload(model)
