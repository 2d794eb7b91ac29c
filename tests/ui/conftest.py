"""A real browser before a real coordinator process. Nothing is downloaded: the browser is the system's Chromium."""

from __future__ import annotations

import os
import shutil
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect, sync_playwright

from support.browser import WIDE, Service
from support.night import Night

CHROMIUM = os.environ.get("ONEROW_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
SWITCHES = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    *(["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
]

expect.set_options(timeout=15_000)


@pytest.fixture(scope="session")
def chromium():
    """The browser."""
    if CHROMIUM is None:
        pytest.fail("There is no Chromium: apt-get install chromium, or name one in ONEROW_TEST_CHROMIUM.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture
def serve():
    """Start services that end with the test."""
    started = []

    def start(night, **more):
        started.append(Service(night, **more).start())
        return started[-1]

    yield start
    for service in started:
        service.kill()


@pytest.fixture
def night(tmp_path):
    """An empty store that is configured and created."""
    return Night(tmp_path)


@pytest.fixture(scope="session")
def shared_night(tmp_path_factory):
    """A store with everything that can be wrong, and a service over it; for tests that only look."""
    night = Night(tmp_path_factory.mktemp("night"))
    night.everything()
    service = Service(night).start()
    yield service
    service.kill()


@pytest.fixture
def visit(chromium):
    """Open pages that must not complain, run foreign scripts or reach beyond their own service."""
    contexts, complaints = [], []

    def open_page(url, *, size=WIDE, scheme="light", allowed=(), **more):
        context = chromium.new_context(viewport=size, color_scheme=scheme, **more)
        contexts.append(context)
        context.set_default_timeout(15_000)
        page = context.new_page()
        own = urlsplit(url).netloc

        def hears(message):
            if message.type in {"error", "warning"} and not any(words in message.text for words in allowed):
                complaints.append(f"{message.type}: {message.text}")

        page.on("console", hears)
        page.on("pageerror", lambda error: complaints.append(f"script: {error}"))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on(
            "request",
            lambda request: urlsplit(request.url).netloc == own or complaints.append(f"beyond: {request.url}"),
        )
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints, complaints
