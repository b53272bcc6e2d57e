"""Asks each served model its known answer, and judges: serving, slow, busy, wrong, hung, lost."""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from triton_server.errors import ControlError
from triton_server.protocol import Code, code_of
from triton_server.supervisor.limits import Limits
from triton_server.supervisor.models import FOR_GOOD, Key, ModelHealth, ModelState, ModelTable
from triton_server.supervisor.probe import Answer, KnownAnswer
from triton_server.supervisor.restarts import Restarts

log = logging.getLogger("triton_server")

GIVEN_UP = "is not healthy"
"""In Triton's answer when it has given up a stub that died, or did not report for a second."""
WRONG_RESTARTS, WRONG_S = 2, 600.0
"""Restarts in so many seconds for one version's wrong answers; if they go on, it is unloaded."""
QUARANTINE_S = 60.0
"""Pause before a version whose known answer was refused is asked again."""
LOOK_S = 0.02
"""Pause between two looks at whether a restart has made an answer worthless."""
AT_WORK = 0.3
"""An instance that used this share of a processor since it was asked is at work."""


@dataclass(frozen=True)
class Work:
    """What the instances of a version did since they started."""

    answers: int
    """Requests that were answered."""
    cpu_s: float
    """Processor time used, s."""


@dataclass(frozen=True)
class Callees:
    """What the prober asks of the server."""

    ask: Callable[[KnownAnswer, float], Answer]
    """Ask the known answer, and wait for so many seconds; raises OSError or ControlError when none comes."""
    work: Callable[[ModelHealth], Work]
    """What the instances did so far."""
    has_ended: Callable[[str], bool]
    """Whether a process that answers for a model has ended."""
    is_loaded: Callable[[KnownAnswer], bool]
    """Whether Triton still serves the version: else somebody has unloaded it, which is not our business."""
    unload: Callable[[str], None]
    """Take a model out of service."""
    fault: Callable[[BaseException], None] = lambda error: None
    """Told of a fault of our own."""


class _Question:
    """The known answer of one version, asked once. Its silence is judged by whoever notices it first, and once.

    Judged a moment later again, as after a pause of the whole machine, a model at work would seem to have done nothing.
    """

    def __init__(self, generation: int) -> None:
        self.generation = generation
        """The start of the server that is asked."""
        self.thread = threading.Thread()
        self.judging = threading.Lock()
        self.ended = False
        """Whoever asks has waited long enough."""
        self.given_up = False
        """Whoever waits for the thread has judged that it does not end."""


class Prober:
    """Judges the models of a table. ``probe`` may be called from any thread; ``clock`` never goes back."""

    def __init__(
        self, models: ModelTable, restarts: Restarts, limits: Limits, callees: Callees,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._models = models
        self._restarts = restarts
        self._limits = limits
        self._call = callees
        self._clock = clock
        self._lock = threading.Lock()
        self._asking: dict[Key, _Question] = {}
        """The questions under way, guarded by the lock: new versions are asked from another thread than all others."""
        self._wrong: dict[Key, list[float]] = {}
        """When the server was restarted for a version's wrong answers."""

    def probe(self, healths: Iterable[ModelHealth] | None = None) -> None:
        """Ask all models, or these, at once, and judge each by its answer, or by having given none in time.

        Returns at once when the server is to be restarted: the answers are not worth waiting for then.
        """
        generation = self._restarts.generation
        began = self._clock()
        asked = list(self._models.supervised.values() if healths is None else healths)
        started = time.monotonic()
        for health, question in [(health, self._question(health, generation)) for health in asked]:
            if not self._wait(question, started + self._limits.hung + 1.0):
                break
            with question.judging:
                if question.thread.is_alive() and not question.ended:
                    # an answer that comes in drops, say: each is in time, and it has no end
                    question.given_up = True
                    self._judge_silence(health, TimeoutError("the answer does not end"), began, generation)
        with self._lock:
            self._asking = {key: question for key, question in self._asking.items() if question.thread.is_alive()}

    def _wait(self, question: _Question, until: float) -> bool:
        """Wait for an answer, or for the end of the time for it; False when a restart is due meanwhile."""
        while question.thread.is_alive() and (left := until - time.monotonic()) > 0:
            if self._restarts.due:
                return False
            question.thread.join(min(left, LOOK_S))
        return True

    def _question(self, health: ModelHealth, generation: int) -> _Question:
        """The known answer of a version, asked now unless it is being asked."""
        with self._lock:
            question = self._asking.get(health.key)
            if question is None or question.generation != generation or not question.thread.is_alive():
                self._asking[health.key] = question = _Question(generation)
                question.thread = threading.Thread(
                    target=self._ask, args=(health, question), name=f"probe {health.name}", daemon=True
                )
                question.thread.start()
        return question

    def _ask(self, health: ModelHealth, question: _Question) -> None:
        began = self._clock()
        try:
            self._probe(health, began, question)
        except Exception as error:  # noqa: BLE001 - a fault of ours; the model's state is not known then
            self._call.fault(error)
            self._judge(health, ModelState.UNKNOWN, f"the probe failed: {type(error).__name__}: {error}",
                        began, question.generation)  # fmt: skip

    def _probe(self, health: ModelHealth, began: float, question: _Question) -> None:
        generation = question.generation
        if health.state is ModelState.UNKNOWN:  # what the instances did before is no sign of life
            work = self._call.work(health)
            health.progress, health.cpu_s = work.answers, work.cpu_s
        try:
            answer = self._call.ask(health.known, self._limits.hung)
        except ControlError as error:
            if self._is_news_of_none(health, generation):
                return
            # Refused at once is an overloaded queue (503, 429) or what was asked (400); anything else is a model that
            # does not do its work.
            busy = error.status in (429, 503)
            if code_of(str(error)) is Code.NO_DEVICE:
                self._judge(health, ModelState.LOST, str(error), began, generation)
                return
            if 400 <= error.status < 500 and not busy:
                until = self._clock() + QUARANTINE_S
                self._models.quarantine(health, f"its known answer cannot be asked: {error}", until)
                return
            if GIVEN_UP in str(error):
                ended = self._call.has_ended(health.known.model)
                self._judge(health, ModelState.HUNG, str(error), began, generation)
                self._ask_for_restart(health, f"{health.name}: {error}", generation, ended=ended)
                return
            self._judge(health, ModelState.BUSY if busy else ModelState.WRONG, str(error), began, generation)
        except OSError as error:
            self._end_silent(health, error, began, question)
        else:
            slow = self._clock() - began > self._limits.slow
            good = ModelState.SLOW if slow else ModelState.SERVING
            health.answered |= self._restarts.is_present(generation)
            self._judge(health, good if answer.correct else ModelState.WRONG, answer.detail, began, generation)

    def _is_news_of_none(self, health: ModelHealth, generation: int) -> bool:
        """Whether what was heard tells nothing: the server was restarted, or the version unloaded on purpose."""
        if not self._restarts.is_present(generation):
            return True
        if self._call.is_loaded(health.known):
            return False
        self._models.forget(health.key)
        return True

    def _judge(self, health: ModelHealth, verdict: ModelState, detail: str, began: float, generation: int) -> None:
        if not self._restarts.is_present(generation):
            return
        now = self._clock()
        if verdict is not health.state:
            level = logging.INFO if verdict in (ModelState.SERVING, ModelState.BUSY) else logging.WARNING
            log.log(level, "%s: %s (%s)", health.name, verdict, detail)
        health.state, health.detail, health.probe_s = verdict, detail, now - began
        health.wrong_in_a_row = health.wrong_in_a_row + 1 if verdict is ModelState.WRONG else 0
        if verdict.serves:
            health.progress_at = now
        if health.wrong_in_a_row >= 2:
            health.wrong_in_a_row = 0
            self._act_on_wrong(health, f"{health.name}: {detail}", generation)

    def _act_on_wrong(self, health: ModelHealth, detail: str, generation: int) -> None:
        """Restart the server; where that has not helped, unload the model, which is better than wrong answers."""
        now = self._clock()
        restarts = self._wrong[health.key] = [at for at in self._wrong.get(health.key, []) if now - at < WRONG_S]
        if len(restarts) < WRONG_RESTARTS:
            restarts.append(now)
            self._restarts.ask("wrong", detail, generation)
            return
        reason = f"it is wrong after {len(restarts)} restarts, too, and was unloaded: {detail}"
        self._call.unload(health.known.model)
        self._models.quarantine(health, reason, FOR_GOOD)

    def _end_silent(self, health: ModelHealth, error: OSError, began: float, question: _Question) -> None:
        """Judge what had no answer in time, unless whoever waits for this thread has."""
        with question.judging:
            question.ended = True
            if not question.given_up and not self._is_news_of_none(health, question.generation):
                self._judge_silence(health, error, began, question.generation)

    def _ask_for_restart(self, health: ModelHealth, detail: str, generation: int, *, ended: bool) -> None:
        """Ask for a restart because of a model that gives no answer: its process has ended, or hangs."""
        self._restarts.ask("dead" if ended else "hung", detail, generation, health.known.model)

    def _judge_silence(self, health: ModelHealth, error: OSError, began: float, generation: int) -> None:
        """No answer in time: hung, unless other requests are answered or the processor is used."""
        work = self._call.work(health)
        now = self._clock()
        at_work = work.cpu_s - health.cpu_s > AT_WORK * (now - began)
        moved = work.answers != health.progress
        health.progress, health.cpu_s = work.answers, work.cpu_s
        if moved:
            health.progress_at = now
        silent = now - health.progress_at
        ended = self._call.has_ended(health.known.model)  # what it did before is no sign of life
        if not ended and (moved or (at_work and silent < self._limits.hung_at_work)):
            detail = f"no known answer in {self._limits.hung:g} s, but at work"
            self._judge(health, ModelState.SLOW, detail, began, generation)
            health.progress_at = now - silent
            return
        self._judge(health, ModelState.HUNG, f"{type(error).__name__}: {error}", began, generation)
        detail = f"{health.name} has not answered for {silent:.1f} s"
        self._ask_for_restart(health, detail, generation, ended=ended)
