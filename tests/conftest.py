"""Shared test set-up: what is run again, and a run that executes fewer tests than it should is a failed run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Admin keys are made in a folder of the tests, not in the home of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--at-least", type=int, default=0, help="fail if fewer tests than this passed")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of real servers and containers share the machine with whatever else runs on it: such a test may fail once.

    The summary names what was run again (RERUN); a fault of the code fails both times.
    """
    if not config.pluginmanager.hasplugin("rerunfailures"):
        return
    for item in items:
        if item.get_closest_marker("server") or item.get_closest_marker("docker"):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    expected: int = session.config.getoption("--at-least")
    if reporter is None or session.exitstatus != pytest.ExitCode.OK:
        return
    passed = len(reporter.stats.get("passed", []))
    if passed < expected:
        reporter.write_line(f"{passed} tests passed, at least {expected} were expected", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
