"""Projects of the app: the embedded default in a folder of each test's own, or on the emulators."""

from __future__ import annotations

import logging
import os

import pytest

from support.nba import IncidentLines, Platform, settings
from support.warm import Warm


@pytest.fixture(scope="session")
def warm():
    """``onerow`` and ``python3`` for scripts, without their start-up time."""
    found = Warm()
    yield found
    found.close()


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch, caplog):
    """Projects of a test are in its own folder, all lines of the log are kept, and no other test gets any."""
    for name in [name for name in os.environ if name.startswith("NBA_PROPS_")]:
        monkeypatch.delenv(name)
    for name in (settings.PROJECT, settings.LOCK_SWITCH):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(settings.HOME, str(tmp_path / "home"))
    caplog.set_level(logging.INFO)
    yield
    log = logging.getLogger("onerow")
    for handler in [handler for handler in log.handlers if isinstance(handler, IncidentLines)]:
        log.removeHandler(handler)


@pytest.fixture
def local():
    """The embedded default."""
    return Platform(settings.LOCAL)


@pytest.fixture
def cloud(moving):
    """A project on the emulators of BigQuery and Firestore."""
    return Platform(moving.project, moving.bigquery)
