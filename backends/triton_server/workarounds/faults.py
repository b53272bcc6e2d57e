"""Triton's faults that the project lives with, what stands against each, and the test that notices when it has gone."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """A fault of Triton that the project lives with."""

    name: str
    what: str
    upstream: tuple[str, ...]
    """Issues and pull requests as repository#number; empty where we know of none."""
    against: tuple[str, ...]
    """Modules that can go when the fault has gone, below the package triton_server."""
    needless: str
    """The ability or release that makes them needless, as far as one is known."""
    noticed_by: str
    """The test, in tests/e2e/test_faults.py, that fails when the fault has gone; empty where none shows it reliably."""


FAULTS = (
    Fault(
        "lost wake-up",
        "the batcher is told that an instance has finished a moment before the instance counts as free, and sleeps for "
        "500 ms where it looks in that moment",
        (),
        ("workarounds.late_response", "workarounds.thread_priority", "workarounds.batch_policy"),
        "none: the sources of 2.72 have it",
        "test_the_batcher_sleeps_in",
    ),
    Fault(
        "metrics destroyed twice",
        "a stub that ends destroys the server's counters, which the next instance of the version uses, too",
        ("server#8663", "server#8662"),
        ("workarounds.kept_metrics",),
        "none: open in 2.72",
        "",
    ),
    Fault(
        "requests that fill a stack",
        "the body of a form, and up to 2.6x nested JSON, is read on the stack of a thread, and ends it at 8 MiB",
        ("common#156", "server#8745"),
        ("server.start_with_parent",),
        "none: 2.72 limits JSON to 100 levels, and a form still ends it",
        "test_a_form_ends_a_server_with_the_usual_stack",
    ),
    Fault(
        "dead stubs stay dead",
        "a Python stub that died is never started again, and the index goes on calling its model ready",
        ("server#8604", "server#7230", "python_backend#431"),
        ("supervisor.supervisor", "supervisor.reaped_stub"),
        "none: dead_stub_readiness tells of it and restarts nothing",
        "test_a_dead_stub_is_not_started_again",
    ),
)
