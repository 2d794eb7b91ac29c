"""The list of gaps is itself kept true."""

from __future__ import annotations

from conformance.backends import GAPS, LOCK_STORES, PART_STORES, WAREHOUSES
from onerow.testing.conformance import lockstore, partstore, warehouse


def test_every_gap_names_a_backend_a_check_and_a_reason():
    backends = {*LOCK_STORES, *PART_STORES, *WAREHOUSES}
    checks = {check.__name__ for suite in (lockstore, partstore, warehouse) for check in suite.CHECKS}
    for (backend, check), reason in GAPS.items():
        assert backend in backends
        assert check in checks
        assert len(reason) > 20


def test_no_two_checks_of_a_suite_have_one_name():
    for suite in (lockstore, partstore, warehouse):
        names = [check.__name__ for check in suite.CHECKS]
        assert len(set(names)) == len(names)
