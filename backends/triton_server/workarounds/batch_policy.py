"""The server's threads displace none of its own: against the batcher's lost wake-up, beside late_response.py.

Triton's batcher is told that an instance has finished a moment before the instance counts as free (rate_limiter.cc: the
callback comes before the consumer's count). A batcher that displaces the instance in this moment finds it taken and
sleeps for 500 ms, unless a new request comes. With clients that wait for answers none comes: eight connections on two
busy cores lost a third of their throughput to it.
"""

import contextlib
import os


def yield_to_the_woken() -> None:
    """Let this thread, and what it starts, run as SCHED_BATCH: one that wakes displaces none of ours."""
    if os.sched_getscheduler(0) == os.SCHED_OTHER:
        with contextlib.suppress(OSError):  # not worth a start
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
