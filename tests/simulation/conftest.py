"""The simulation's own trace tells more than the log, and thousands of captured lines cost time."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture(autouse=True)
def _quiet_log():
    logger = logging.getLogger("onerow")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(level)
