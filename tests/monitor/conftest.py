"""A receiver of alerts."""

from __future__ import annotations

import pytest

from support.receiver import Receiver


@pytest.fixture
def receiver():
    found = Receiver()
    yield found
    found.die()
