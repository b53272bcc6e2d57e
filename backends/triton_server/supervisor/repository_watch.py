"""Learns what Triton serves, loads what changed on disk, and loads again what was refused."""

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping

from triton_server.errors import ControlError, ServerError, ServerStartError
from triton_server.repository.admission import Verdict, pinned, verify_repository, versions
from triton_server.server.control_api import Json
from triton_server.server.server import TritonServer
from triton_server.supervisor.limits import Limits
from triton_server.supervisor.models import Key, ModelHealth, ModelState, ModelTable
from triton_server.supervisor.probe import known_answer
from triton_server.supervisor.probing import GIVEN_UP
from triton_server.supervisor.processes import Stub
from triton_server.supervisor.repository_files import Files, fingerprints, version_files
from triton_server.supervisor.restarts import Request, Restarts

log = logging.getLogger("triton_server")

RETRY_S = (5.0, 600.0)
"""Pause before what Triton refused is loaded once more, doubled up to the second: a device may be free later."""
DEATHS, DEATHS_S = 2, 600.0
"""Restarts in so many seconds for a model that ends or hangs before its first answer; then it is left out as long."""
RELOAD_S = 30.0
"""Pause before a model that has lost all its devices once more is loaded anew once more."""
NOT_POLLED = "failed to poll"
"""In Triton's answer to the load of a model whose configuration contradicts itself. Its index has no word of it."""
UNREAD = "Triton does not take its config.pbtxt; why stands in the server's log: Poll failed for model directory"
LOADS = 3
"""How often in a row a model is loaded again whose stub dies meanwhile."""


class RepositoryWatch:
    """Keeps the table of models what Triton serves, and Triton serving what the repository holds.

    ``probe`` asks new versions their known answers, ``describe`` fills in what answers. ``pause`` waits for so many
    seconds and returns whether the end has come meanwhile. With ``loads_changes`` what changes on disk is loaded.
    """

    def __init__(
        self, server: TritonServer, models: ModelTable, restarts: Restarts, limits: Limits, *,
        probe: Callable[[list[ModelHealth]], None], describe: Callable[[Mapping[Key, ModelHealth]], None],
        pause: Callable[[float], bool], loads_changes: bool = True, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._server = server
        self._models = models
        self._restarts = restarts
        self._limits = limits
        self._probe = probe
        self._describe = describe
        self._pause = pause
        self._loads_changes = loads_changes
        self._clock = clock
        self._fingerprints: dict[str, Files] = {}
        self._loads: Counter[str] = Counter()
        self._stale: set[str] = set()
        """Models whose files changed since they were loaded."""
        self._rolled_back: dict[str, tuple[Files, str]] = {}
        """Models that serve an older version: their files then, and why the newest is refused."""
        self._anew: dict[str, float] = {}
        """When a model that loses its last device may be loaded anew once more."""
        self._retries: dict[str, tuple[float, float]] = {}
        """Of each model that is not served: when it is loaded once more, and the pause after that."""
        self._asked: set[str] = set()
        """Models that the server was told to load when it started."""
        self._unread: set[str] = set()
        """Models whose configuration Triton did not take when they were loaded again."""
        self._deaths: dict[str, list[float]] = {}
        """When a restart was the fault of a model that had not answered since the start."""
        self._left_out: dict[str, tuple[Files, str, float]] = {}
        """Models that are not loaded because of it: their files, the reason, and when they are."""
        self._index_error = ""

    # -- at a start

    def prepare(self) -> Verdict:
        """What may be loaded, just before the server does so."""
        self._fingerprints = fingerprints(self._server.model_repository)
        verdict = self._verify()
        for model, reason in verdict.refused.items():
            log.error("model '%s' is not loaded: %s", model, reason)
        for health in self._models.supervised.values():
            health.answered = False
        for model in verdict.slowing:
            log.warning("model '%s' will slow down with Triton 2.51, which has several instances, a queue time-out and "
                        "a queue delay: set max_queue_delay_microseconds to 0", model)  # fmt: skip
        self._stale.clear()
        self._rolled_back.clear()
        self._asked = set(verdict.accepted)
        self._unread.clear()
        return verdict

    def blame(self, request: Request) -> None:
        """Leave out the model that a restart is for, where it is not the first and the model has never answered."""
        now = self._clock()
        for model in {model for model, _ in self._models.supervised if request.about}:
            healths = [health for (name, _), health in self._models.supervised.items() if name == model]
            if request.about != model and not Stub(0, request.about).runs(model):
                continue
            if any(health.answered for health in healths):
                continue
            deaths = self._deaths[model] = [at for at in self._deaths.get(model, []) if now - at < DEATHS_S]
            if len(deaths) < DEATHS:
                deaths.append(now)
                continue
            reason = f"it does not survive its first request, after {len(deaths)} restarts, too: {request.detail}"
            self._left_out[model] = (self._fingerprints.get(model, ()), reason, now + DEATHS_S)

    def _verify(self) -> Verdict:
        """What may be loaded: what passes the verification, but for what was left out, until its files change."""
        verdict = verify_repository(self._server.model_repository)
        for model, (files, reason, _) in list(self._left_out.items()):
            if self._fingerprints.get(model) != files:
                del self._left_out[model]
            elif model in verdict.accepted:
                verdict.accepted.remove(model)
                verdict.refused[model] = reason
        return verdict

    def take_over(self, verdict: Verdict) -> None:
        """Learn what the server that has just started serves, and mend what it does not.

        Raises ServerStartError when it does not answer for its models.
        """
        try:
            self.sync(verdict)
            self._load_again()
            self._roll_back(verdict)
        except OSError as error:
            raise ServerStartError(f"the server started and then did not answer for its models: {error}") from error

    # -- in service

    def watch(self) -> None:
        """One round, after a pause: what others loaded or unloaded, what changed on disk, what is to be mended."""
        if self._pause(self._limits.repository_interval) or not self._restarts.up:
            return
        try:
            if self._loads_changes:
                self.load_changes()
            if self._restarts.up:
                verdict = self._verify()
                self.sync(verdict)
                self._load_again()
                self.load_later(verdict)
                self._load_anew()
        except (OSError, ServerError, ValueError) as error:
            if self._restarts.up:
                log.warning("cannot follow the repository: %s", error)

    def sync(self, verdict: Verdict) -> None:
        """Which versions are served now, each with its known answer, and which models were refused."""
        supervised: dict[Key, ModelHealth] = {}
        new: list[ModelHealth] = []
        refused = dict(verdict.refused)
        ready: set[Key] = set()
        failed: dict[Key, str] = {}
        unread = self._asked | self._unread
        for entry in self._index():
            model, version = str(entry["name"]), str(entry.get("version", ""))
            if entry.get("state") and model not in self._unread:
                unread.discard(model)
            if entry.get("state") == "READY" and version:
                ready.add((model, version))
                try:
                    health, is_new = self._supervise(model, version)
                except Exception as error:  # noqa: BLE001 - whatever it is, the other models go on
                    refused[model] = f"no known answer can be asked: {error}"
                    continue
                if health is not None:
                    supervised[health.key] = health
                    new += [health] if is_new else []
            elif entry.get("state") == "UNAVAILABLE" and entry.get("reason") not in (None, "unloaded"):
                failed[model, version] = clean_reason(str(entry["reason"]))
        for (model, version), reason in failed.items():
            if not any(name == model and int(newer) > int(version or 0) for name, newer in ready):
                refused[model] = reason
        for model in unread & set(verdict.accepted):
            refused.setdefault(model, f"{UNREAD} '{model}'")
        self._describe(supervised)
        if self._restarts.up and new:  # else they would count as not serving until the next round
            self._probe(new)
        self._tell_rolled_back(supervised, refused)
        self._models.replace(supervised, refused, ready, verdict.accepted)

    def _supervise(self, model: str, version: str) -> tuple[ModelHealth | None, bool]:
        """The health of a version that Triton serves, and whether it is a new one; None in quarantine."""
        key = (model, version)
        files = version_files(self._server.model_repository / model / version)
        health = self._models.supervised.get(key)
        if self._models.in_quarantine(key, files):
            return None, False
        if health is None or (health.files != files and self._is_loaded(model, version, files)):
            known = known_answer(self._server.control, self._server.model_repository, model, version)
            return ModelHealth(known, files), True
        return health, False

    def _tell_rolled_back(self, supervised: Mapping[Key, ModelHealth], refused: dict[str, str]) -> None:
        for model, (files, reason) in list(self._rolled_back.items()):
            newest = versions(self._server.model_repository / model)[:1]
            served = any((model, str(version)) in supervised for version in newest)
            if self._fingerprints.get(model) != files or served:
                del self._rolled_back[model]
            else:
                refused.setdefault(model, reason)

    def _index(self) -> list[Json]:
        """What Triton serves; without the reasons of refusals where it cannot list the repository."""
        try:
            return self._server.control.index()
        except ControlError as error:
            if str(error) != self._index_error:
                log.warning("Triton cannot list the repository: %s", error)
                self._index_error = str(error)
        return [{**entry, "state": "READY"} for entry in self._server.control.statistics()]

    def _is_loaded(self, model: str, version: str, files: Files) -> bool:
        """Whether the files of a version that Triton serves are those that it loaded, and not newer ones."""
        if not self._loads_changes:
            return True
        loaded = {(f"{version}/{name}", *rest) for name, *rest in files} <= set(self._fingerprints.get(model, ()))
        return loaded and model not in self._stale

    # -- loading

    def _load(self, model: str, *, anew: bool = False) -> str:
        """Load a model as it is on disk, ``anew`` even where nothing changed. Returns why Triton refuses, or nothing.

        Raises TimeoutError when it does not end, which costs a restart.
        """
        generation = self._restarts.generation
        try:
            if anew:
                self._server.control.unload(model)
            self._server.control.load(model)
        except TimeoutError:
            self._restarts.ask("stalled", f"the load of model '{model}' does not end", generation)
            raise
        except ControlError as error:
            if NOT_POLLED in str(error):
                self._unread.add(model)
            return clean_reason(str(error))
        self._unread.discard(model)
        self._stale.discard(model)
        return ""

    def _load_again(self) -> None:
        """Load again what is refused because its stub died: it then tries the device of its end in a child first."""
        for served, _ in self._models.supervised:
            self._loads.pop(served, None)
        while died := [m for m, why in self._models.refused.items() if GIVEN_UP in why and self._loads[m] < LOADS]:
            for model in died:
                self._loads[model] += 1
                log.warning("model '%s' is loaded again, since its stub died meanwhile", model)
                self._load(model)  # why not is in the index
            self.sync(self._verify())

    def _roll_back(self, verdict: Verdict) -> None:
        """Serve an older version where the newest is faulty, as before the restart, of which Triton knows nothing."""
        refused = self._models.refused
        for model in sorted((refused.keys() & set(verdict.accepted)) - self._models.served):
            if GIVEN_UP in refused[model]:
                continue
            folder = self._server.model_repository / model
            for version in versions(folder)[1:]:
                with contextlib.suppress(ControlError, OSError, ValueError):
                    self._server.control.load(model, config=pinned(folder, version))
                    log.warning("model '%s': version %d serves, since the newest is refused", model, version)
                    self._rolled_back[model] = (self._fingerprints.get(model, ()), refused[model])
                    break
        if self._rolled_back:
            self.sync(verdict)

    def load_later(self, verdict: Verdict) -> None:
        """Try again, ever more rarely, what Triton refused and the verification does not: the cause may have gone."""
        waiting = self._models.refused.keys() - verdict.refused.keys() - self._models.served
        now = self._clock()
        for model in [model for model, (_, _, until) in self._left_out.items() if now >= until]:
            del self._left_out[model]
            self._load(model)  # why not is in the index
        self._retries = {
            model: self._retries.get(model, (now + RETRY_S[0], 2 * RETRY_S[0])) for model in sorted(waiting)
        }
        for model, (due, pause) in list(self._retries.items()):
            if now < due or self._pause(0.0):
                continue
            self._retries[model] = (now + pause, min(2 * pause, RETRY_S[1]))
            if not self._load(model):
                log.warning("model '%s', which was refused, was loaded", model)

    def _load_anew(self) -> None:
        """Try the devices of a model again from the first, when it has lost the last; the others serve meanwhile."""
        supervised = self._models.supervised
        for model in sorted({model for (model, _), health in supervised.items() if health.state is ModelState.LOST}):
            if self._clock() < self._anew.get(model, 0.0):
                continue
            self._anew[model] = self._clock() + RELOAD_S
            log.error("model '%s' has lost its last device and is loaded anew", model)
            self._load(model, anew=True)  # why not is in the index

    def load_changes(self) -> None:
        """Load each model whose files changed, once nobody writes them any more; unload what was removed."""
        repository = self._server.model_repository
        seen = fingerprints(repository)
        changed = [model for model, files in seen.items() if self._fingerprints.get(model) != files]
        removed = self._fingerprints.keys() - seen.keys()
        self._stale.update(changed)
        if changed and self._pause(self._limits.watch_interval):
            return
        if changed and fingerprints(repository) != seen:
            return  # still being written: look again next time
        self._fingerprints = seen
        verdict = self._verify()
        generation = self._restarts.generation
        for model in changed:
            if model in verdict.refused:
                log.error("model '%s' changed and is refused: %s", model, verdict.refused[model])
                continue
            if model in verdict.incomplete and not self._server.auto_complete:
                detail = f"model '{model}' came with a configuration for Triton to complete"
                self._restarts.ask("reconfigured", detail, generation)
                return
            reason = self._load(model)
            if reason:
                log.error("model '%s' changed and does not load: %s", model, reason)
            else:
                log.info("model '%s' changed and was loaded", model)
        for model in removed:
            with contextlib.suppress(ControlError):
                self._server.control.unload(model)
                log.info("model '%s' was removed and is unloaded", model)


def clean_reason(reason: str) -> str:
    """Triton's reason of a failed load, without the wrapping of our own error: its kind, and where it was raised."""
    text = reason.partition("\n\nAt:")[0]
    return text.removeprefix("Internal: ").removeprefix("TritonModelException: ").strip()
