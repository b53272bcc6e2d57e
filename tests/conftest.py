"""Shared test set-up: a run that executes fewer tests than it should is a failed run."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--at-least", type=int, default=0, help="fail if fewer tests than this passed")


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
