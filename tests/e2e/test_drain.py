"""The end of a replica behind a proxy: first not ready, then, when nobody sends any more, gone."""

import signal
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import Traffic, serving

pytestmark = pytest.mark.server


def test_a_draining_server_is_not_ready_and_answers(repository: Path) -> None:
    with serving(repository, "--drain", "60") as service:
        service.wait_ready()
        with Traffic(service, "tiny") as traffic:
            service.process.send_signal(signal.SIGTERM)
            service.wait_for(lambda: service.get("/ready")[0] == 503, 5.0, "not being ready")
            answered = len(traffic.answers)
            service.wait_for(lambda: len(traffic.answers) > answered + 20, 20.0, "answers while draining")
            assert service.process.poll() is None
        assert traffic.statuses() == {"ok"}
        began = time.monotonic()
        assert service.stop() == 0  # the second signal ends it at once
        assert time.monotonic() - began < 15
