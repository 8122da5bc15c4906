"""Rules for the whole test run.

With LIMBECK_FAIL_ON_SKIP=1, as in CI, a skipped test is a failed test, unless it is marked `gpu`: a check
that quietly stops running is worse than none.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

# A shell starts what runs in its background with SIGINT ignored, and every child would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

FAIL_ON_SKIP = os.environ.get("LIMBECK_FAIL_ON_SKIP") == "1"


SHARING = ("tests/end_to_end/", "tests/service/web/", "tests/service/api/", "tests/limbeck/")
"""Folders whose tests share what is dear to make: a finished job, a server, a browser."""


class ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """Where several processes run the tests, a file's tests stay together, or those of a whole folder."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = nodeid.partition("::")[0]
        return next((folder for folder in SHARING if file.startswith(folder)), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """Not xdist's own groups: pytest 9.2 ignores the way in which xdist 3.8 passes them on."""
    return ByFile(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the skip of a test that is not marked `gpu` into a failure."""
    report = yield
    expected = hasattr(report, "wasxfail") or item.get_closest_marker("gpu") is not None
    if FAIL_ON_SKIP and report.skipped and not expected:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, though LIMBECK_FAIL_ON_SKIP=1: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn the skip of a whole module into a failure."""
    report = yield
    if FAIL_ON_SKIP and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} was skipped, though LIMBECK_FAIL_ON_SKIP=1: {report.longrepr}"
    return report
