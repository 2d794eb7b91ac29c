"""The conformance suite of the port, over every backend."""

from __future__ import annotations

import pytest

from conformance.backends import WAREHOUSES, runs
from onerow.testing.conformance.warehouse import CHECKS


@pytest.mark.parametrize(
    ("check", "warehouse"),
    [
        pytest.param(check, backend, id=f"{backend}-{check.__name__}")
        for backend in WAREHOUSES
        for check in CHECKS
        if runs(backend, check)
    ],
    indirect=["warehouse"],
)
def test_warehouse(check, warehouse):
    check(warehouse)
