"""The models of the server as the supervisor sees them: supervised, refused, in quarantine."""

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from triton_server.protocol import FIRST, LAST
from triton_server.server.control_api import Json
from triton_server.supervisor.probe import KnownAnswer
from triton_server.supervisor.repository_files import Files

log = logging.getLogger("triton_server")

Key: TypeAlias = tuple[str, str]
"""A model's name and version."""
FOR_GOOD = float("inf")
"""Until its files change, or somebody loads it."""


class ModelState(StrEnum):
    """What the last probe of a model version said."""

    SERVING = "serving"
    """The last known answer was right and in time."""
    SLOW = "slow"
    """The known answer comes, late."""
    BUSY = "busy"
    """The queue is full, or the instance is at work."""
    WRONG = "wrong"
    """Another answer than the known one."""
    HUNG = "hung"
    """No answer, no progress, no processor use."""
    LOST = "lost"
    """The model has no device left."""
    UNKNOWN = "unknown"
    """Not asked yet, or the asking itself failed."""

    @property
    def serves(self) -> bool:
        """Whether requests are answered, and rightly."""
        return self in (ModelState.SERVING, ModelState.SLOW, ModelState.BUSY)


@dataclass
class ModelHealth:
    """One served model version as the supervisor sees it."""

    known: KnownAnswer
    files: Files = ()
    """Of the version's folder, to notice that it was replaced."""
    state: ModelState = ModelState.UNKNOWN
    detail: str = ""
    probe_s: float = 0.0
    wrong_in_a_row: int = 0
    answered: bool = False
    """Whether it has answered since the server started."""
    device: str = ""
    isa: str = ""
    """The device's instruction set, where it is a CPU."""
    precision: str = ""
    kernel: str = ""
    choice: str = ""
    """Which of its devices the model serves on: "first", "spare" or "last"; of several instances the worst."""
    failovers: int = 0
    """Devices of this version that were taken out of service since the server started."""
    self_tests: dict[str, int] = field(default_factory=dict)
    """Known-answer tests of the device by result since the server started."""
    thread_faults: int = 0
    """Faults of the plugin's own threads since the server started."""
    progress: int = 0
    cpu_s: float = 0.0
    progress_at: float = field(default_factory=time.monotonic)

    @property
    def key(self) -> Key:
        """Model and version."""
        return self.known.model, self.known.version

    @property
    def name(self) -> str:
        """Model and version in words."""
        return f"{self.known.model} version {self.known.version}"

    @property
    def degraded(self) -> bool:
        """Whether it serves on its last resort, after all other devices of its list failed."""
        return self.choice == LAST

    @property
    def on_first(self) -> bool:
        """Whether it serves on the device that it was meant for, as far as is known."""
        return self.choice in ("", FIRST)

    def row(self) -> Json:
        """For a program."""
        return {
            "model": self.known.model, "version": self.known.version, "state": str(self.state), "detail": self.detail,
            "degraded": self.degraded, "probe_ms": round(self.probe_s * 1e3, 3), "device": self.device,
            "isa": self.isa, "precision": self.precision, "kernel": self.kernel, "choice": self.choice,
            "failovers": self.failovers, "self_tests": dict(self.self_tests), "thread_faults": self.thread_faults,
        }  # fmt: skip


@dataclass(frozen=True)
class Quarantine:
    """A version that is loaded and not supervised, so that it does not take the others with it."""

    files: Files
    reason: str
    until: float
    """When it is asked again; FOR_GOOD for one that was unloaded."""


class ModelTable:
    """All that is known of the models, behind one lock. ``clock`` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._supervised: dict[Key, ModelHealth] = {}
        self._refused: dict[str, str] = {}
        self._quarantined: dict[Key, Quarantine] = {}

    @property
    def supervised(self) -> dict[Key, ModelHealth]:
        """The versions that are asked their known answers."""
        with self._lock:
            return dict(self._supervised)

    @property
    def refused(self) -> dict[str, str]:
        """Models that Triton or the verification refused, or that are in quarantine, with the reason."""
        with self._lock:
            return dict(self._refused)

    @property
    def served(self) -> set[str]:
        """Names of the models of which a version is supervised or in quarantine."""
        with self._lock:
            return {model for model, _ in (*self._supervised, *self._quarantined)}

    def ready(self, *, strict_device: bool = False) -> bool:
        """Whether there are models, and each gives its known answer; ``strict_device``: each on its first device."""
        with self._lock:
            healths = list(self._supervised.values())
        return bool(healths) and all(
            health.state.serves and (health.on_first or not strict_device) for health in healths
        )

    def rows(self) -> list[Json]:
        """Every supervised version, for a program."""
        with self._lock:
            return [health.row() for _, health in sorted(self._supervised.items())]

    def replace(
        self, supervised: Mapping[Key, ModelHealth], refused: Mapping[str, str], ready: Collection[Key],
        accepted: Collection[str],
    ) -> None:  # fmt: skip
        """What is so now; a quarantine goes on for what is ``ready`` in Triton, or was unloaded and is ``accepted``."""
        with self._lock:
            now_refused = dict(refused)
            for key, quarantine in list(self._quarantined.items()):
                if key in ready or (quarantine.until == FOR_GOOD and key[0] in accepted):
                    now_refused[key[0]] = quarantine.reason
                else:
                    del self._quarantined[key]
            news = {model: reason for model, reason in now_refused.items() if model not in self._refused}
            self._supervised = {key: health for key, health in supervised.items() if key not in self._quarantined}
            self._refused = now_refused
        for model, reason in news.items():
            log.error("model '%s' is refused: %s", model, reason)

    def quarantine(self, health: ModelHealth, reason: str, until: float) -> None:
        """No longer supervise a version; what it is asked says nothing about the server."""
        model, version = health.key
        with self._lock:
            news = self._refused.get(model) != reason
            self._quarantined[health.key] = Quarantine(health.files, reason, until)
            self._supervised.pop(health.key, None)
            self._refused[model] = reason
        if news:
            log.error("%s version %s: %s", model, version, reason)

    def in_quarantine(self, key: Key, files: Files) -> bool:
        """Whether a version that is loaded is not asked: until its time comes, its files change, or it is loaded."""
        with self._lock:
            quarantine = self._quarantined.get(key)
            if quarantine is None:
                return False
            if quarantine.files == files and self._clock() < quarantine.until < FOR_GOOD:
                return True
            del self._quarantined[key]
            return False

    def forget(self, key: Key) -> None:
        """The version was unloaded on purpose."""
        with self._lock:
            self._supervised.pop(key, None)
