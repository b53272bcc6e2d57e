"""Shared test set-up: what is run again, and what may be skipped."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest

from fpga_ops.runtime.onnxruntime_import import disable_telemetry

disable_telemetry(os.environ)  # test modules import onnxruntime themselves, before any fixture


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Admin keys are made in a folder of the tests, not in the home of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        for name in (
            "no_proxy",
            "NO_PROXY",
        ):
            patch.setenv(name, ",".join(filter(None, [os.environ.get(name), "localhost,127.0.0.1,::1"])))
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-skips", action="store_true", help="fail if a test is skipped for another reason than the CPU"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of real servers and containers share the machine with whatever else runs on it: such a test may fail once.

    What was run again is in the summary (RERUN).
    """
    if not config.pluginmanager.hasplugin("rerunfailures"):
        return
    for item in items:
        if item.get_closest_marker("server") or item.get_closest_marker("docker"):
            item.add_marker(pytest.mark.flaky(reruns=1))


class _TwoOfThree:
    """A test that failed once and then passed runs a third time: one that fails in two of three runs has failed."""

    def __init__(self) -> None:
        self._outcomes: dict[str, set[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._outcomes.setdefault(report.nodeid, set()).add(report.outcome)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        done = yield
        outcomes = self._outcomes.pop(item.nodeid, set())
        if "rerun" in outcomes and "failed" not in outcomes:
            item.own_markers = [marker for marker in item.own_markers if marker.name != "flaky"]
            item.ihook.pytest_runtest_protocol(item=item, nextitem=nextitem)
        return done


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_TwoOfThree())


FACTS = ("this CPU ", "this device ")
"""What a reason begins with that no installation could mend; any other skipped test is a test that did not run."""


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not session.config.getoption("--no-skips") or session.exitstatus != pytest.ExitCode.OK:
        return
    for report in reporter.stats.get("skipped", []):
        reason = str(report.longrepr[2]).removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else "?"
        if not reason.startswith(FACTS):
            reporter.write_line(f"{report.nodeid} was skipped ({reason}), and must not be", red=True)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
