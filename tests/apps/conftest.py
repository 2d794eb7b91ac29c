"""Projects of the app: the embedded default in a folder of each test's own, or on the emulators."""

from __future__ import annotations

import logging

import pytest

from support.nba import Platform, settings


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch, caplog):
    """Projects of a test are in its own folder, and all lines of the log are kept."""
    monkeypatch.setenv(settings.HOME, str(tmp_path / "home"))
    for name in (settings.PROJECT, settings.DATASET, settings.DATABASE, settings.LOCK_SWITCH):
        monkeypatch.delenv(name, raising=False)
    caplog.set_level(logging.INFO)


@pytest.fixture
def local():
    """The embedded default."""
    return Platform(settings.LOCAL)


@pytest.fixture
def cloud(moving):
    """A project on the emulators of BigQuery and Firestore."""
    return Platform(moving.project, moving.bigquery)
