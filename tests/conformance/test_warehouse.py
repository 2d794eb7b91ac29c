"""The conformance suite of the port, over every backend."""

from __future__ import annotations

import pytest

from onerow.testing.conformance import warehouse


@pytest.mark.parametrize("check", warehouse.CHECKS, ids=lambda check: check.__name__)
def test_warehouse(check, warehouse):
    check(warehouse)
