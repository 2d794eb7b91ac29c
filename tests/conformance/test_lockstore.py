"""The conformance suite of the port, over every backend."""

from __future__ import annotations

import pytest

from onerow.testing.conformance import lockstore


@pytest.mark.parametrize("check", lockstore.CHECKS, ids=lambda check: check.__name__)
def test_lockstore(check, lock_store):
    check(lock_store)
