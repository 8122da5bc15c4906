"""A real API process with jobs in every state, and a real browser."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from search.records import StageName
from tests.job_story import Story, small_spec
from tests.service.api.conftest import Api, opened_api

CHROMIUM = os.environ.get("LIMBECK_CHROMIUM", "/usr/bin/chromium")
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
HOSTILE = "<img src=x onerror=alert(1)>\"'&"


@dataclass
class Stories:
    """One job of each kind."""

    succeeded: Story
    running: Story
    failed: Story
    queued: Story


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API over SQLite that serves the pages."""
    with opened_api(tmp_path_factory.mktemp("pages")) as running:
        yield running


@pytest.fixture(scope="session")
def stories(api: Api) -> Stories:
    """Jobs that tests only look at."""

    def begin(**parts: object) -> Story:
        story = Story(api.store, api.artifact_root, spec=small_spec(**parts))
        story.submit()
        return story

    succeeded = begin()
    succeeded.tell()
    failed = begin(name="A teacher that cannot teach", labels={"team": HOSTILE})
    failed.claim()
    failed.fail("teacher_check_failed", f"The teacher knows nothing. {HOSTILE}")
    running = begin(name=HOSTILE, labels={"purpose": "escaping"})
    running.tell(until=StageName.SEARCH)
    return Stories(succeeded, running, failed, queued=begin(name=None))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, as it is installed. For one module: Playwright's loop keeps other tests from asyncio's."""
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh page; any error that its console shows fails the test (a refused inline script, for one)."""
    errors: list[str] = []
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    opened = context.new_page()
    opened.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: errors.append(str(error)))
    yield opened
    context.close()
    assert errors == []
